//! x
pub mod alert_cursor;
pub mod answer_spool;
