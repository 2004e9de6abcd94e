//! Extra privacy mode.

use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use vigie_persistence::{Persistence, masked_form};
use vigie_sdk::{Query, StandardModule, privacy};

use crate::host::Host;

#[test]
fn nothing_that_identifies_is_shown() {
    let host = Host::fresh();
    host.write("/etc/cron.d/diary-ann", "@daily ann /opt/diary secret\n", 0o644);
    host.write("/home/ann/.ssh/authorized_keys", "command=\"diary\" ssh-rsa AAAA diary\n", 0o600);
    host.write("/etc/systemd/system/diary.service", "[Service]\nExecStart=/opt/diary\nUser=ann\n", 0o644);
    let parameters = json!({"root": host.path("/"), "deep": true});
    let mut query = Query::new(Some(to_raw_value(&parameters).unwrap()));
    query.extraprivacy = true;

    let result = Persistence::run(&query);

    assert_eq!(privacy::check(&result, masked_form), Ok(()));
    let text = serde_json::to_string(&result).unwrap();
    for secret in ["diary", "\"ann\"", "/etc/", "/usr/", "coreutils"] {
        assert!(!text.contains(secret), "{secret}");
    }
    let elements: Value = serde_json::from_str(result.elements.unwrap().get()).unwrap();
    let local =
        elements["entries"].as_array().unwrap().iter().find(|entry| entry["technique"] == "cron-d").unwrap();
    assert_eq!(
        (&local["verdict"], &local["attack"], &local["file"]),
        (&json!("local"), &json!("T1053.003"), &json!("masked"))
    );
}

#[test]
fn what_was_asked_wrongly_is_told_in_clear() {
    let parameters = json!({"kind": ["crom"]});
    let mut query = Query::new(Some(to_raw_value(&parameters).unwrap()));
    query.extraprivacy = true;

    let result = Persistence::run(&query);

    assert!(result.errors.unwrap()[0].contains("crom"));
}
