//! What comes over pipes and sockets: lines of modules, requests and replies of the agent's socket, results, requests
//! for metrics, the protocol of NATS. The first byte chooses.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use vigie_fleet::broker::client::wire;
use vigie_metrics::http;
use vigie_protocol::control::{Reply, Request};
use vigie_protocol::json;
use vigie_protocol::message::MessageRef;
use vigie_protocol::result::ModuleResult;
use vigie_protocol::socket::SocketSpec;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let text = std::str::from_utf8(data);
    match choice % 6 {
        0 => {
            let Ok(text) = text else { return };
            for line in text.lines() {
                let Ok(message) = MessageRef::parse(line) else { continue };
                let _ = message.parameters_as::<serde_json::Value>("any");
            }
        }
        1 => {
            let _ = serde_json::from_slice::<Request>(data);
            let _ = serde_json::from_slice::<Reply>(data);
        }
        2 => {
            let Ok(result) = serde_json::from_slice::<ModuleResult>(data) else { return };
            let line = result.to_line();
            assert!(line.ends_with(b"\n") && !line[..line.len() - 1].contains(&b'\n'), "one line");
            serde_json::from_slice::<ModuleResult>(&line).expect("what was written is read");
        }
        3 => {
            let _ = http::read(data, true);
        }
        4 => {
            let mut buffer = BytesMut::from(data);
            while let Ok(Some(_)) = wire::decode(&mut buffer) {}
        }
        _ => {
            let Ok(text) = text else { return };
            let _ = text.parse::<SocketSpec>();
            if let Ok(value) = serde_json::from_str::<Box<serde_json::value::RawValue>>(text) {
                let anew = json::compacted(value);
                assert!(!anew.get().contains('\n'));
            }
        }
    }
});
