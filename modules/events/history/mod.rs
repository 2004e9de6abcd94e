//! What happened, on disk: a log that grows, and blocks that are sealed.

pub(crate) mod block;
pub(crate) mod columns;
pub(crate) mod lanes;
#[cfg(test)]
mod lanes_tests;
mod quota;
pub(crate) mod store;
