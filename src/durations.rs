//! Times on the command line.

use std::time::Duration;

/// Reads `10s`, `1h 30min`; zero would mean a question that nobody can answer in time.
pub(crate) fn positive(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it as in 500ms, 10s or 1h 30min")),
    }
}
