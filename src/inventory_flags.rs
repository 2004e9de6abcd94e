//! What `vigie query packages` takes.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};
use vigie_fswatch::change::shown;

use crate::query_flags::Parameters;

/// `query packages`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PackagesFlags {
    /// Name; a ! before an expression, here and below, wants what does not match
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    name: Vec<String>,

    /// Version in the order of the package's manager: <3.0.15, >=1:2.0-3, !=4
    #[arg(long, value_name = "CONDITION")]
    version: Vec<String>,

    /// Name of the source package
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    source: Vec<String>,

    /// Architecture: amd64, noarch, …
    #[arg(long, value_name = "ARCH")]
    architecture: Vec<String>,

    /// Only packages of this manager
    #[arg(long, value_name = "MANAGER", value_parser = ["dpkg", "rpm", "apk"])]
    manager: Vec<String>,

    /// State, or what is wanted of the package: installed, hold, config-files, half-
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    state: Vec<String>,

    /// Only the packages that have this file
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,

    /// List the files of each package
    #[arg(long)]
    files: bool,

    /// Compare the packages' files with what is recorded; exits with 1 when something differs
    #[arg(long)]
    verify: bool,

    /// With --verify: read also what was read before and looks the same
    #[arg(long, requires = "verify")]
    full: bool,

    /// Most packages or differences that are listed
    #[arg(long, value_name = "COUNT")]
    most: Option<usize>,
}

/// A path as modules read it: absolute, and of any bytes.
fn path_text(path: &Path) -> String {
    shown(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

impl PackagesFlags {
    /// The parameters of the query.
    pub(crate) fn parameters(self) -> Map<String, Value> {
        let mut all = Parameters::default();
        all.put_all("name", self.name);
        all.put_all("version", self.version);
        all.put_all("source", self.source);
        all.put_all("architecture", self.architecture);
        all.put_all("manager", self.manager);
        all.put_all("state", self.state);
        all.put_all("file", self.file.iter().map(|path| path_text(path)).collect());
        all.put_if("files", self.files);
        all.put_if("verify", self.verify);
        all.put_if("full", self.full);
        all.put_some("limit", self.most);
        all.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn packages_are_asked_for_by_their_names_and_files() {
        let flags = PackagesFlags {
            name: vec!["^openssl".to_owned()],
            version: vec!["<3.0.15".to_owned()],
            file: vec!["/usr/bin/a\nb".into()],
            verify: true,
            ..Default::default()
        };

        let expected = json!({"name": ["^openssl"], "version": ["<3.0.15"], "file": ["/usr/bin/a\\x0ab"], "verify": true});
        assert_eq!(Value::Object(flags.parameters()), expected);
        assert!(PackagesFlags::default().parameters().is_empty());
    }
}
