//! What `vigie query packages` and `vigie query processes` take.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use serde_json::{Map, Value};

use crate::query::paths::{absolute_only, path_text};
use crate::query_flags::Parameters;

/// `query packages`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PackagesFlags {
    /// Name; here and below, a leading ! negates an expression
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    name: Vec<String>,

    /// Version, compared as the package manager does: <3.0.15, >=1:2.0-3, !=4
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

    /// Installed state or selection state of the package: installed, hold, config-files, half-
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    state: Vec<String>,

    /// Only packages that contain this file
    #[arg(long, value_name = "PATH", value_parser = OsStringValueParser::new().try_map(absolute_only))]
    file: Vec<PathBuf>,

    /// List the files of each package
    #[arg(long)]
    files: bool,

    /// Compare the packages' files with the package database; the exit code is 1 if anything differs
    #[arg(long)]
    verify: bool,

    /// With --verify: also read files that were verified before and whose metadata is unchanged
    #[arg(long, requires = "verify")]
    full: bool,

    /// Maximum number of packages or differences to list
    #[arg(long, value_name = "COUNT")]
    most: Option<usize>,

    /// Examine the system below this directory, such as a mounted image
    #[arg(long, value_name = "PATH")]
    root: Option<PathBuf>,
}

impl PackagesFlags {
    /// The paths that are asked about.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.file.iter().chain(&self.root)
    }

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
        let root = self.root.map(|root| std::path::absolute(&root).unwrap_or(root));
        all.put_some("root", root.map(|root| root.to_string_lossy().into_owned()));
        all.0
    }
}

/// `query processes`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ProcessesFlags {
    /// Process ID
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,

    /// Process ID of its parent
    #[arg(long, value_name = "PID")]
    parent: Vec<u32>,

    /// Name as the kernel has it; here and below, a leading ! negates an expression
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    name: Vec<String>,

    /// Arguments, joined by spaces
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    command: Vec<String>,

    /// Path of the program
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    path: Vec<String>,

    /// Effective user, by name or ID
    #[arg(long, value_name = "USER")]
    user: Vec<String>,

    /// Login user, by name or ID; "none" for processes without a login
    #[arg(long, value_name = "USER")]
    login: Vec<String>,

    /// MD5, SHA-1 or SHA-256 of the running program
    #[arg(long, value_name = "HEX")]
    hash: Vec<String>,

    /// Time since it started: <1h, >2days
    #[arg(long, value_name = "AGE")]
    age: Vec<String>,

    /// State of the program's file
    #[arg(long, value_name = "STATE", value_parser = ["present", "deleted", "replaced", "renamed", "memfd", "unknown"])]
    exe: Vec<String>,

    /// ID, name, pod or cgroup of its container
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    container: Vec<String>,

    /// Path of a file that it has open
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    open: Vec<String>,

    /// Port that it listens on
    #[arg(long, value_name = "PORT")]
    port: Vec<u16>,

    /// Path of a file that it has mapped as executable
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    library: Vec<String>,

    /// Effective capability: net_raw, sys_admin, …
    #[arg(long, value_name = "NAME")]
    capability: Vec<String>,

    /// Show users, groups and capabilities
    #[arg(long)]
    credentials: bool,

    /// Show the open files of each process
    #[arg(long)]
    files: bool,

    /// Show the ports that each process listens on
    #[arg(long)]
    ports: bool,

    /// Show libraries that were deleted or that other users can write
    #[arg(long)]
    libraries: bool,

    /// Show the digests of the programs
    #[arg(long)]
    hashes: bool,

    /// Also show the ancestors and descendants of the matches, as a tree
    #[arg(long)]
    tree: bool,

    /// Skip the state of programs' files and the namespaces; halves the cost
    #[arg(long)]
    brief: bool,

    /// Maximum number of processes to list
    #[arg(long, value_name = "COUNT")]
    most: Option<usize>,
}

impl ProcessesFlags {
    /// The parameters of the query.
    pub(crate) fn parameters(self) -> Map<String, Value> {
        let mut all = Parameters::default();
        for (key, numbers) in [("pid", self.pid), ("parent", self.parent)] {
            if !numbers.is_empty() {
                all.put(key, numbers);
            }
        }
        for (key, values) in [
            ("name", self.name),
            ("command", self.command),
            ("path", self.path),
            ("user", self.user),
            ("login", self.login),
            ("hash", self.hash),
            ("age", self.age),
            ("exe", self.exe),
            ("container", self.container),
            ("open", self.open),
            ("library", self.library),
            ("capability", self.capability),
        ] {
            all.put_all(key, values);
        }
        if !self.port.is_empty() {
            all.put("port", self.port);
        }
        for (key, wanted) in [
            ("credentials", self.credentials),
            ("files", self.files),
            ("ports", self.ports),
            ("libraries", self.libraries),
            ("hashes", self.hashes),
            ("tree", self.tree),
            ("brief", self.brief),
        ] {
            all.put_if(key, wanted);
        }
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

    #[test]
    fn processes_are_asked_for_by_what_they_are_and_do() {
        let flags = ProcessesFlags {
            pid: vec![1],
            exe: vec!["deleted".to_owned()],
            port: vec![80],
            tree: true,
            most: Some(5),
            ..Default::default()
        };

        let expected = json!({"pid": [1], "exe": ["deleted"], "port": [80], "tree": true, "limit": 5});
        assert_eq!(Value::Object(flags.parameters()), expected);
        assert!(ProcessesFlags::default().parameters().is_empty());
    }
}
