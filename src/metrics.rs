//! `vigie metrics`: the status as metrics, on standard output or in a file for node_exporter.

use std::path::{Path, PathBuf};

use clap::Args;
use vigie_files::published;
use vigie_metrics::{Form, TEXTFILE_MODE, render};

use crate::exit::{Exit, Failure};
use crate::print::Printer;
use crate::status;

/// `metrics`
#[derive(Debug, Args)]
pub(crate) struct MetricsArgs {
    /// Use the OpenMetrics format instead of the Prometheus text format
    #[arg(long)]
    pub(crate) openmetrics: bool,

    /// Write to this file instead of standard output, replacing it atomically, for node_exporter's textfile
    /// collector; its name must end in .prom
    #[arg(long, value_name = "FILE", conflicts_with = "openmetrics")]
    pub(crate) out: Option<PathBuf>,
}

/// Carries out `metrics`.
pub(crate) fn run(args: &MetricsArgs, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let status = status::fetch(socket)?;
    let form = if args.openmetrics { Form::OpenMetrics } else { Form::Text };
    let page = render(&status, form);
    match &args.out {
        None => printer.raw(page.as_bytes())?,
        Some(path) => published::replace(path, page.as_bytes(), TEXTFILE_MODE).map_err(|error| {
            let hint = "name a file in node_exporter's --collector.textfile.directory that you may write to";
            Failure::new(Exit::Io, format!("cannot write the metrics to {path:?}: {error}"), hint)
        })?,
    }
    Ok(Exit::Ok)
}
