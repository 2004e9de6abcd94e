use proptest::prelude::*;

use super::*;

fn found(syntax: Syntax, text: &str) -> Vec<(u32, Vec<String>)> {
    let forms = [Include { syntax, base: Base::File, reads: Reads::Same }];
    leads(&forms, text.as_bytes()).into_iter().map(|lead| (lead.line, lead.names)).collect()
}

fn one(line: u32, names: &[&str]) -> Vec<(u32, Vec<String>)> {
    vec![(line, names.iter().map(|name| (*name).to_owned()).collect())]
}

#[test]
fn words_are_followed_by_names() {
    let include = Syntax::Words("Include");
    assert_eq!(found(include, "# Include /no\n include=/a # c\n"), one(2, &["/a"]));
    assert_eq!(found(include, "Include \"/a b\"\nIncludes /no\n"), one(1, &["/a b"]));
    assert_eq!(found(include, "INCLUDE /a\\ b /c\n"), one(1, &["/a b", "/c", "/a\\ b /c"]));
    assert_eq!(found(Syntax::Words("#includedir"), "#includedir /a\n# includedir /b\n"), one(1, &["/a"]));
    assert_eq!(found(Syntax::Words("#include"), "#include \"/a\";\n"), one(1, &["/a"]));
    assert_eq!(found(Syntax::Words("* include"), "-auth include x\nauth required y\n"), one(1, &["x"]));
    assert_eq!(found(Syntax::Words("Alias *"), "Alias /x \"/data/y\"\n"), one(1, &["/data/y"]));
    assert_eq!(found(Syntax::Words("* include"), "# include x\n"), []);
}

#[test]
fn variables_are_set_anywhere_in_a_line() {
    let found = |text| found(Syntax::Variable("ZDOTDIR"), text);
    assert_eq!(found("[ x ] && export ZDOTDIR=\"/a=b\"; y\n"), one(1, &["/a=b"]));
    assert_eq!(found(": ${ZDOTDIR:=/a}\n"), one(1, &["/a"]));
    assert_eq!(found(": ${ZDOTDIR=${HOME}/a}/b\n"), one(1, &["${HOME}/a"]));
    assert_eq!(found("[ -z \"$ZDOTDIR\" ] && export ZDOTDIR=/opt/x\n"), one(1, &["/opt/x"]));
    assert_eq!(found("ZDOTDIR=/a; export 'ZDOTDIR=/b c' MYZDOTDIR=/no\n"), one(1, &["/a", "/b c"]));
    assert_eq!(found("(ZDOTDIR=/a)&&x; ZDOTDIR=\\/b|x; x $ZDOTDIR=/no\n"), one(1, &["/a", "/b"]));
    assert_eq!(found("# ZDOTDIR=/no\ncd ${ZDOTDIR:-$HOME}\n"), []);
    // The line may stand in quotes that were opened before it.
    assert_eq!(found("ZDOTDIR='\"; ZDOTDIR=/evil '\n"), one(1, &["\"; ZDOTDIR=/evil ", "/evil"]));
    assert_eq!(found("ZDOTDIR=${ZDOTDIR:=/a}\n"), one(1, &["${ZDOTDIR:=/a}", "/a"]));
}

#[test]
fn what_is_kept_of_a_line_is_no_longer_than_a_few_times_the_line() {
    for text in
        ["ZDOTDIR=", "${ZDOTDIR:=", "ZDOTDIR='", "'ZDOTDIR=", "ZDOTDIR=\\"].map(|text| text.repeat(8_192))
    {
        let found = found(Syntax::Variable("ZDOTDIR"), &text);

        let kept: usize = found.iter().flat_map(|(_, names)| names).map(String::len).sum();
        assert!(kept < 4 * text.len(), "{kept} of {}", text.len());
        assert!(
            found.iter().any(|(_, names)| names.iter().any(|name| name == "$ZDOTDIR")),
            "{}",
            &text[..20]
        );
    }
}

#[test]
fn what_is_kept_of_a_line_of_a_script_is_no_longer_than_a_few_times_the_line() {
    for text in ["''b", "\"\"b", "``b", "'`b\"", "; . /a'b'", "; . /a`b`", "'; . /", "x[1 ", "$("] {
        for start in ["'; . /", "\"; . /", "`; . /", ". /", ""] {
            let text = format!("{start}{}", text.repeat(4_096));

            let found = found(Syntax::Source, &text);

            let kept: usize = found.iter().flat_map(|(_, names)| names).map(String::len).sum();
            assert!(kept <= 12 * text.len(), "{kept} of {}: {}", text.len(), &text[..16]);
        }
    }
}

#[test]
fn statements_end_at_semicolons_and_braces() {
    let text = "http { # root /no;\n include\n  /a/*;server{root '/srv/app;x';}\n}\n";
    assert_eq!(found(Syntax::Statement("include"), text), one(2, &["/a/*"]));
    assert_eq!(found(Syntax::Statement("root"), text), one(3, &["/srv/app;x"]));
}

#[test]
fn keys_stand_in_sections() {
    let text = "[x]\nfiles=/no\n[include]\nfiles = /a/*.ini\n  /b\n[y]\nfiles=/no\n";
    let expected = [one(4, &["/a/*.ini"]), one(5, &["/b"])].concat();
    assert_eq!(found(Syntax::Key("include", "files"), text), expected);
    let text = "[includeIf \"gitdir:~/x\"]\n\tpath = /a b\n[core] pager = x\n";
    assert_eq!(found(Syntax::Key("include*", "path"), text), one(2, &["/a", "b", "/a b"]));
}

#[test]
fn calls_name_files_over_lines() {
    assert_eq!(
        found(Syntax::Call, "# include(file=\"/no\")\ninclude(\n file=\"/a\" mode=\"optional\")\n"),
        one(2, &["/a"])
    );
    assert_eq!(found(Syntax::Call, "include(text=`x`)"), one(1, &["$text=`x`"]));
}

#[test]
fn shells_read_files_where_commands_begin() {
    let found = |text: &str| -> Vec<String> {
        found(Syntax::Source, text).into_iter().flat_map(|(_, names)| names).collect()
    };
    assert_eq!(found(". /a\nsource /b # . /no\n  . \"$HOME/.c d\"\n"), ["/a", "/b", "$HOME/.c d"]);
    assert_eq!(found("if [ -r /x ]; then . /x; fi; [ -f y ]&&source ~/y||. z\n"), ["/x", "~/y", "z"]);
    assert_eq!(
        found("A=1 . /a; case $- in *i*) . /b;; esac; f() { builtin source -- /c; }\n"),
        ["/a", "/b", "/c"]
    );
    assert_eq!(found(". $(brew --prefix)/x /arg; . <(curl y)\n"), ["$(brew --prefix)/x"]);
    assert_eq!(found("# . /no\necho . /no source /no; x=. /no; ./no; sourced /no\n"), [""; 0]);
    assert_eq!(found("x && \\\n . /joined\n"), ["/joined"]);
    for hidden in [
        "x='\n'; . /e\n",
        "x=\"\n\" . /e\n",
        "x='\n#'; . /e\n",
        "cat <<E\nit's\nE\nx='\n'; . /e\n",
        "x=$'\\''; . /e\n",
        "2>/dev/null . /e\n",
        ">&2 . /e\n",
        "&>/dev/null . 3<x /e\n",
        "source>x /e\n",
        "x=$(. /e)\n",
        "x=\"# $(. /e)\"\n",
        "PROMPT_COMMAND='. /e'\n",
    ] {
        assert_eq!(found(hidden), ["/e"], "{hidden}");
    }
    assert_eq!(found(". `echo /e`\n. \"/a\nb\"\n"), ["`echo /e`", "/a$"]);
    for one in [
        "x=`. /e`\n",
        "eval `. /e`\n",
        "x=`. /e`; y=z\n",
        "function f { . /e; }\n",
        "command -p . /e\n",
        "coproc . /e\n",
        "coproc NAME { . /e; }\n",
        "time -p . /e\n",
        "x+=2 . /e\n",
        "x[1]=2 . /e\n",
        "x[1 + 2]+=3 . /e\n",
        "noglob . /e\n",
        "- . /e\n",
        "repeat 1 . /e\n",
        "repeat $n . /e\n",
        "$'.' /e\n",
        "$\"source\" $'/e'\n",
        "source -p / /e\n",
        // What is in quotes may be a command, and the line is known as a whole.
        "alias act='cd x; . /e'\n",
        "alias act='cd x; . /e' other\n",
        "trap \". /e\" EXIT\n",
    ] {
        assert_eq!(found(one), ["/e"], "{one}");
    }
    for named in ["PROMPT_COMMAND=\". '/e f'\"\n", "eval '. \"/e f\"'\n", "x='y; . \"/e f\"'\n"] {
        assert_eq!(found(named), ["/e f"], "{named}");
    }
    assert_eq!(found("source -p /a:/b e\n"), ["/a/e", "/b/e"]);
    // A backquote may be the end of a command that began before the line, or its beginning.
    assert_eq!(found("x=`\n. /e`; . /f\n"), ["/e`; . /f$", "/e", "/f"]);
    assert_eq!(found("x=`echo\n`; . `echo /e`; . /f`echo y`\n"), ["`echo /e`", "/f", "/f`echo y`"]);
    assert_eq!(found("x=`. /e`; . /f; y=`z`\n")[..2], ["/e", "/f"]);
    assert_eq!(found(". /a/`uname`/y\n"), ["/a/`uname`/y"]);
    assert_eq!(found("(x -C . /no); echo x[1 . /no\n"), [""; 0]);
    assert_eq!(found("# don't source this\nx > . /no\necho \"source no\" 'a'\n"), [""; 0]);
    assert_eq!(found(&format!(": {}; . /far\n", "x".repeat(10_000))), ["/far"]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_and_lines_are_those_of_the_text(
        bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), proptest::sample::select(&b"\\\n=\"'{};# [](i"[..])], 0..200)
    ) {
        let count = bytes.split(|byte| *byte == b'\n').count();
        let syntaxes = [
            Syntax::Words("*"),
            Syntax::Statement("*"),
            Syntax::Key("*", "*"),
            Syntax::Variable("i"),
            Syntax::Call,
            Syntax::Source,
        ];
        let forms = syntaxes.map(|syntax| Include { syntax, base: Base::File, reads: Reads::Same });
        for lead in leads(&forms, &bytes) {
            prop_assert!(lead.line >= 1 && lead.line as usize <= count);
        }
    }
}
