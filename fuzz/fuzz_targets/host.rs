//! What a host's own files, its kernel and its time servers say, and what investigators ask. The first byte chooses.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use vigie_host::AddressRange;
use vigie_host::mounts::Mounts;
use vigie_netstat::netlink::{Messages, attributes};
use vigie_packagedb::owners::Manager;
use vigie_packagedb::version;
use vigie_sdk::outbox::OutboxState;
use vigie_timedrift::packet::Request;
use vigie_timedrift::timestamp::NtpTimestamp;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let text = std::str::from_utf8(data);
    match choice % 9 {
        0 => {
            let mounts = Mounts::parse(data);
            let _ = mounts.of(Path::new("/var/lib"));
            assert!(mounts.differences(&mounts).is_empty());
        }
        1 => {
            if let Some(range) = text.ok().and_then(|text| AddressRange::parse(text).ok()) {
                assert_eq!(AddressRange::parse(&range.to_string()), Ok(range));
            }
        }
        2 => drop(vigie_accounts::sudoers::syntax::parse(data)),
        3 => drop(vigie_accounts::keys::parse(data)),
        4 => {
            for message in Messages::new(data) {
                let Ok(message) = message else { break };
                attributes(message.payload).for_each(drop);
            }
            attributes(data).for_each(drop);
        }
        5 => {
            let Some((a, b)) = text.ok().and_then(|text| text.split_once('\n')) else { return };
            for manager in [Manager::Dpkg, Manager::Rpm, Manager::Apk] {
                let order = version::compare(manager, a, b);
                assert_eq!(order, version::compare(manager, b, a).reverse(), "{manager:?} {a:?} {b:?}");
            }
        }
        6 => {
            let Ok(text) = text else { return };
            let _ = vigie_fswatch::pattern::Pattern::parse(text);
            if let Ok(raw) = serde_json::from_str::<Box<RawValue>>(text) {
                let _ = vigie_file::parameters::parse(Some(&raw), 0);
            }
        }
        7 => {
            // The number is what the server repeats; without it nothing else is looked at.
            let nonce = data.get(24..32).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
            let request = Request { nonce, sent_at: NtpTimestamp::from_bits(1 << 63) };
            let _ = request.judge(data, NtpTimestamp::from_bits((1 << 63) + (1 << 30)));
        }
        _ => {
            let recovered = OutboxState::recover(data, 7);
            let again = OutboxState::recover(&recovered.state.snapshot(), 8);
            assert_eq!(again.state.len(), recovered.state.len());
        }
    }
});
