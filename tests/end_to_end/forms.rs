//! What the program prints for programs is as docs/json.md says: everything that any test here has it print is checked.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

/// A row of the table in docs/json.md.
pub(crate) struct Form {
    /// The command as words; those that begin with `-` may stand anywhere.
    words: Vec<String>,
    pub(crate) file: String,
    schema: Value,
    pub(crate) pointer: String,
}

pub(crate) fn docs(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

pub(crate) fn forms() -> &'static [Form] {
    static FORMS: OnceLock<Vec<Form>> = OnceLock::new();
    FORMS.get_or_init(|| {
        let page = docs("json.md");
        let rows = page.lines().filter(|line| line.starts_with("| `vigie "));
        let forms = rows.map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let quoted = |cell: &str| cell.split('`').nth(1).unwrap_or_default().to_owned();
            let file = cells[1].split(['(', ')']).nth(1).unwrap().to_owned();
            let mut words: Vec<String> = quoted(cells[0]).split(' ').skip(1).map(str::to_owned).collect();
            // What an option is given is an example.
            if words.len() > 2 && matches!(words[words.len() - 2].as_str(), "-t" | "-i") {
                words.pop();
            }
            let schema = serde_json::from_str(&docs(&file)).unwrap();
            Form { words, schema, pointer: quoted(cells[1]), file }
        });
        forms.collect()
    })
}

impl Form {
    pub(crate) fn is_of(&self, arguments: &[&str]) -> bool {
        let (options, words): (Vec<_>, Vec<_>) = self.words.iter().partition(|word| word.starts_with('-'));
        let long = |option: &str| match option {
            "-t" => "--target".to_owned(),
            "-i" => "--action".to_owned(),
            other => other.to_owned(),
        };
        let has = |option: &String| arguments.iter().any(|word| word == option || *word == long(option));
        arguments.len() >= words.len()
            && words.iter().zip(arguments).all(|(word, argument)| *word == argument)
            && options.into_iter().all(has)
    }
}

/// Checks what a command printed, where the page promises a form of it and it is JSON.
pub(crate) fn check(arguments: &[&str], out: &str) {
    let is_json = out.starts_with('{') && !arguments.contains(&"--watch");
    let Some(form) = forms().iter().find(|form| is_json && form.is_of(arguments)) else { return };
    // The last line of a command that was ended may be half a line.
    let whole = out.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {line}"));
        let problems = vigie_schema::problems(&form.schema, &form.pointer, &value);
        assert!(problems.is_empty(), "{arguments:?}: {} says otherwise: {problems:?}: {line}", form.file);
    }
}
