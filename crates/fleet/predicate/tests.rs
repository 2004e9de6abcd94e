//! The language by example, its laws, and a second evaluator that knows nothing of the first.

mod examples;
mod laws;
mod model;
