//! The module against captured tables and answers, against ss(8), in real network namespaces and while sockets
//! come and go.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod churn;
mod hung;
mod live;
mod more;
mod namespaces;
mod vectors;

use serde_json::Value;
use serde_json::value::to_raw_value;
use vigie_netstat::Netstat;
use vigie_sdk::{Query, StandardModule};

const SCHEMA: &str = include_str!("../../../../docs/netstat.schema.json");

/// Asks the module as the agent does.
fn ask(parameters: &Value) -> Value {
    let query = Query::new(Some(to_raw_value(parameters).unwrap()));
    let result: Value = serde_json::from_slice(&Netstat::run(&query).to_line()).unwrap();
    if result["success"] == true {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        assert_eq!(vigie_schema::problems(&schema, "/$defs/parameters", parameters), [""; 0], "{parameters}");
        assert_eq!(vigie_schema::problems(&schema, "/$defs/result", &result), [""; 0], "{parameters}");
    }
    result
}

/// The elements for one asked value; none for `null`.
fn elements<'a>(result: &'a Value, kind: &str, asked: &str) -> &'a [Value] {
    result["elements"][kind][asked].as_array().map_or(&[], Vec::as_slice)
}
