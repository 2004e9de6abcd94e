//! What ships for monitoring.

#[cfg(test)]
mod shipped;
