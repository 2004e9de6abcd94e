//! How alerts are written for other systems, and what the answers of those systems mean. Pure: no I/O, and time and
//! random numbers are passed in. The agent's sinks (`actors/sinks`) carry it out.
//!
//! | module | decides |
//! |---|---|
//! | [`alert`] | what an alert of the journal is to a sink |
//! | [`filter`] | which alerts a sink wants |
//! | [`schema`] | alerts as JSON: our own schema, OCSF, ECS |
//! | [`syslog`], [`relp`] | records of RFC 5424 and RFC 3164, their framing, and RELP's acknowledgements |
//! | [`overlap`] | what is sent again after a connection of plain TCP broke |
//! | [`request`], [`verdict`] | bodies of HTTP requests, and what an answer means for each alert |
//! | [`otlp`] | OpenTelemetry's logs in protobuf and JSON, and the collector's answer |
//! | [`signature`] | signatures of webhooks |
//! | [`journald`] | the native form of systemd's journal |
//! | [`ack`] | lines between the agent and a program that takes alerts |
//! | [`backoff`] | when a failed delivery is tried again |
//! | [`place`] | how far a sink is, on disk |

pub mod ack;
pub mod alert;
pub mod backoff;
pub mod filter;
pub mod journald;
pub mod otlp;
pub mod overlap;
pub mod place;
pub mod relp;
pub mod request;
pub mod schema;
pub mod signature;
pub mod syslog;
pub mod verdict;

mod text;
