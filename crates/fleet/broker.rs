//! The broker: NATS with JetStream. Accounts and permissions, streams and buckets, connecting, and a nats-server
//! of one's own for development and tests.
//!
//! | part | does |
//! |---|---|
//! | [`jwt`] | makes the operator, the accounts and the users' credentials; pure |
//! | [`streams`] | creates and updates the streams and buckets |
//! | [`connection`] | connects and tells of what happens to the connection |
//! | [`kv`] | writes and reads the buckets, within an agent's rights |
//! | [`local`] | runs a nats-server in a directory |
//!
//! Everything works with nats-server 2.9.10 and newer; what that rules out is said where it matters.

pub mod connection;
pub mod jwt;
pub mod kv;
pub mod local;
pub mod streams;
