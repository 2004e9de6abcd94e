//! `processes` and `packages`, asked through the agent.

use serde_json::json;

use crate::harness::{Host, Settings};

#[test]
fn processes_and_packages_answer_through_the_agent_and_keep_to_extra_privacy_mode() {
    for private in [false, true] {
        let settings = match private {
            true => Settings { agent: "extraprivacymode = true", ..Settings::default() },
            false => Settings::default(),
        };
        let host = Host::new(&settings, "");
        let agent = host.start();

        for (module, parameters) in [
            (
                "processes",
                json!({"pid": [agent.pid().as_raw()], "files": true, "libraries": true, "tree": true}),
            ),
            ("processes", json!({"name": ["^vigie"], "brief": true, "ports": true, "credentials": true})),
            ("packages", json!({"name": ["^(bash|busybox|musl|glibc)$"], "verify": true})),
            ("packages", json!({"file": ["/bin/sh"], "files": true})),
        ] {
            let answer = host.query(module, &parameters);

            let result = &answer["result"];
            assert_eq!(result["success"], true, "{private} {module} {parameters}: {answer}");
            assert!(result["coverage"]["examined"].is_u64(), "{answer}");
            if module == "processes" {
                let first = &result["elements"]["processes"][0];
                assert_eq!(first["name"] == "masked", private, "{answer}");
            }
        }
        let wrong = host.query("processes", &json!({"nmae": ["x"]}));
        assert!(wrong["result"]["errors"][0].as_str().unwrap().contains("nmae"), "{wrong}");
    }
}

#[test]
fn processes_are_printed_with_a_line_each_and_a_wrong_flag_is_wrong_usage() {
    let host = Host::new(&Settings::default(), "");
    let agent = host.start();
    let pid = agent.pid().to_string();

    let ran = host.vigie(&["query", "processes", "--pid", &pid, "--ports", "--human"]);
    let text = &ran.out;

    assert_eq!(ran.code, 0, "{text}");
    let line = text.lines().find(|line| line.trim_start().starts_with(&pid)).unwrap_or_default();
    assert!(line.contains("vigie") && line.contains("agent"), "{text}");
    assert_eq!(host.vigie(&["query", "processes", "--exe", "gone"]).code, 64);
}
