//! The module asked as the agent asks it, on trees of its own.

mod filters;
mod harness;
mod limits;
mod model;
mod objects;
