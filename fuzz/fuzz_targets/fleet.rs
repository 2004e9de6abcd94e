//! What crosses the broker: envelopes, policies, facts, targets, signatures, keys. The first byte chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vigie_fleet::admission;
use vigie_fleet::facts::Facts;
use vigie_fleet::policy::{Policy, SignedPolicy, StoredPolicy};
use vigie_fleet::predicate::Target;
use vigie_fleet::signature::{PublicKey, Unchecked};

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let text = std::str::from_utf8(data);
    match choice % 6 {
        0 => {
            let _ = admission::read(data);
        }
        1 => {
            let _ = SignedPolicy::from_json(data);
            let _ = StoredPolicy::from_json(data);
        }
        2 => {
            if let Ok(text) = text {
                let _ = Policy::parse_unsigned(text, "org");
            }
        }
        3 => {
            let _ = Facts::from_json(data);
        }
        4 => {
            let Ok(text) = text else { return };
            let Ok(target) = Target::parse(text) else { return };
            let canonical = target.to_string();
            let again = Target::parse(&canonical).expect("a target's canonical text is read again");
            assert_eq!(again.to_string(), canonical);
        }
        _ => {
            let Ok(text) = text else { return };
            let _ = PublicKey::parse(text);
            let _ = Unchecked::parse(text);
        }
    }
});
