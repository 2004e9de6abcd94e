//! Takes secrets out of command lines before anybody keeps them. What counts as one is the list in `docs/fswatch.md`.
//!
//! A command line is a list of arguments of any content, so this is a rule of thumb: it hides the usual forms, and no
//! program should be given a secret in this way.

/// What stands for a secret.
pub const HIDDEN: &str = "********";

/// Parts of a name that make its value a secret; case, `-` and `_` do not count.
const SECRET_NAMES: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "secretkey",
    "credential",
    "authkey",
    "authtoken",
];

/// Last words of names with the same meaning; as a part they would be found in many others.
const SHORT_NAMES: [&str; 4] = ["pass", "pwd", "pw", "psk"];

/// Programs with a short option that takes a secret, in the same argument or in the next one.
const SHORT_OPTIONS: [(&str, &str); 14] = [
    ("mysql", "-p"),
    ("mysqldump", "-p"),
    ("mysqladmin", "-p"),
    ("mariadb", "-p"),
    ("mariadb-dump", "-p"),
    ("mariadb-admin", "-p"),
    ("sshpass", "-p"),
    ("useradd", "-p"),
    ("usermod", "-p"),
    ("curl", "-u"),
    ("ldapsearch", "-w"),
    ("ldapmodify", "-w"),
    ("redis-cli", "-a"),
    ("smbclient", "-U"),
];

/// Words before a secret in a header of HTTP.
const SCHEMES: [&str; 3] = ["bearer ", "basic ", "token "];

/// Whether what has this name is a secret.
fn is_secret_name(name: &str) -> bool {
    let plain: String =
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    // A file with a secret in it, or the question for one, is none.
    if ["file", "path", "stdin", "prompt", "fd"].iter().any(|end| plain.ends_with(end)) {
        return false;
    }
    let last = name.rsplit(['-', '_', '.']).next().unwrap_or(name).to_ascii_lowercase();
    SHORT_NAMES.contains(&last.as_str()) || SECRET_NAMES.iter().any(|secret| plain.contains(secret))
}

/// The name of an option or a variable.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// The password of `scheme://user:password@host`, and the secret parameters behind a question mark.
fn hide_in_address(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, mut path) = (rest[..end].to_owned(), rest[end..].to_owned());
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}@{host}"),
            None => authority.clone(),
        },
        None => authority,
    };
    if let Some((before, query)) = path.split_once('?') {
        let parameters: Vec<String> = query
            .split('&')
            .map(|parameter| match parameter.split_once('=') {
                Some((name, _)) if is_secret_name(name) => format!("{name}={HIDDEN}"),
                _ => parameter.to_owned(),
            })
            .collect();
        path = format!("{before}?{}", parameters.join("&"));
    }
    format!("{scheme}://{authority}{path}")
}

/// The secret of `Authorization: Bearer …`.
fn hide_in_header(text: &str) -> Option<String> {
    let (name, value) = text.split_once(':')?;
    if !is_name(name) {
        return None;
    }
    let is_authorization = name.to_ascii_lowercase().ends_with("authorization");
    let value = value.trim_start();
    let lower = value.to_ascii_lowercase();
    let scheme = SCHEMES.iter().find(|scheme| lower.starts_with(**scheme)).map_or("", |s| &value[..s.len()]);
    (is_authorization || is_secret_name(name)).then(|| format!("{name}: {scheme}{HIDDEN}"))
}

/// The arguments of a command without their secrets.
#[must_use]
pub(crate) fn without_secrets(arguments: &[String]) -> Vec<String> {
    let program = arguments.first().map_or("", |first| first.rsplit('/').next().unwrap_or(first));
    let short = SHORT_OPTIONS.iter().find(|(name, _)| *name == program).map(|(_, option)| *option);
    let mut hide_next = false;
    let mut plain = Vec::with_capacity(arguments.len());
    for (index, argument) in arguments.iter().enumerate() {
        // An option that follows is no value of the one before.
        if std::mem::take(&mut hide_next) && !argument.starts_with("--") {
            plain.push(HIDDEN.to_owned());
            continue;
        }
        if index > 0
            && let Some(option) = short
            && let Some(value) = argument.strip_prefix(option)
        {
            hide_next = value.is_empty();
            plain.push(if hide_next { argument.clone() } else { format!("{option}{HIDDEN}") });
            continue;
        }
        if let Some((name, value)) = argument.split_once('=')
            && is_name(name)
        {
            let value = if is_secret_name(name) { HIDDEN.to_owned() } else { hide_in_address(value) };
            plain.push(format!("{name}={value}"));
            continue;
        }
        hide_next = argument.starts_with('-') && is_name(argument) && is_secret_name(argument);
        plain.push(hide_in_header(argument).unwrap_or_else(|| hide_in_address(argument)));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(command: &str) -> String {
        let arguments: Vec<String> = command.split('|').map(str::to_owned).collect();
        without_secrets(&arguments).join("|")
    }

    #[test]
    fn secrets_of_the_documented_forms_are_hidden() {
        for (command, expected) in [
            ("x|--password=geheim|-v", "x|--password=********|-v"),
            ("x|--password|geheim|-v", "x|--password|********|-v"),
            ("x|--password|-geheim", "x|--password|********"),
            ("x|--db-pass=geheim|DB_PASS=geheim", "x|--db-pass=********|DB_PASS=********"),
            ("env|PGPASSWORD=geheim|psql", "env|PGPASSWORD=********|psql"),
            ("x|--api-key|k|--token=t", "x|--api-key|********|--token=********"),
            ("/usr/bin/mysql|-pgeheim|-u|root", "/usr/bin/mysql|-p********|-u|root"),
            ("sshpass|-p|geheim|ssh|a", "sshpass|-p|********|ssh|a"),
            ("curl|-u|ann:geheim|https://a/b", "curl|-u|********|https://a/b"),
            ("curl|https://ann:geheim@a/b?token=t&x=1", "curl|https://ann:********@a/b?token=********&x=1"),
            ("curl|-H|Authorization: Bearer geheim", "curl|-H|Authorization: Bearer ********"),
            ("curl|-H|X-Api-Key: geheim", "curl|-H|X-Api-Key: ********"),
            ("x|--url=https://ann:geheim@a", "x|--url=https://ann:********@a"),
        ] {
            assert_eq!(shown(command), expected);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for command in [
            "dpkg|-i|passwd_4.13_amd64.deb",
            "cat|/etc/passwd",
            "x|--password-file=/run/secret",
            "x|--password-stdin|hello",
            "ls|-p|/tmp",
            "x|--output=a:b@c",
            "git|clone|https://host/tokens/x",
        ] {
            assert_eq!(shown(command), command);
        }
    }

    proptest! {
        #[test]
        fn any_arguments_are_shown_one_for_one(arguments in proptest::collection::vec(".{0,20}", 0..6)) {
            prop_assert_eq!(without_secrets(&arguments).len(), arguments.len());
        }

        #[test]
        fn a_password_is_never_shown(secret in "[a-zA-Z0-9]{9,20}", option in "(--password|--DB-PASSWORD|--x_token)") {
            let arguments = [String::from("x"), format!("{option}={secret}"), option, secret.clone()];
            prop_assert!(!without_secrets(&arguments).join(" ").contains(&secret));
        }
    }
}
