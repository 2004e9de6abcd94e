//! What happened, on disk: a log that grows, and blocks that are sealed.

pub(crate) mod block;
pub(crate) mod columns;
pub(crate) mod lanes;
mod quota;
pub(crate) mod store;
#[cfg(test)]
mod tests;
