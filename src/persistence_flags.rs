//! What `vigie query persistence` takes.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};

use crate::query_flags::Parameters;

/// `query persistence`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PersistenceFlags {
    /// Only entries without a known origin: the verdicts local, modified and unknown
    #[arg(long)]
    local: bool,

    /// Only this verdict
    #[arg(long, value_name = "VERDICT", value_parser = ["packaged", "derived", "modified", "local", "unknown"])]
    verdict: Vec<String>,

    /// Only this family: cron, systemd, shell, pam, ssh, kernel, …
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,

    /// Only this MITRE ATT&CK technique and its sub-techniques: T1053, T1543.002
    #[arg(long, value_name = "NUMBER")]
    attack: Vec<String>,

    /// Only the technique with this name in docs/persistence.md: cron-d, sd-timer
    #[arg(long, value_name = "NAME")]
    technique: Vec<String>,

    /// Only files whose path matches
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    file: Vec<String>,

    /// Only entries that run as or belong to this user
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,

    /// Scan all files for setuid bits, capabilities and git hooks, and read every packaged program
    #[arg(long)]
    deep: bool,

    /// Examine the system below this directory, such as a mounted image
    #[arg(long, value_name = "PATH")]
    root: Option<PathBuf>,
}

impl PersistenceFlags {
    /// The paths that are asked about.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.root.iter()
    }

    /// The parameters of the query.
    pub(crate) fn parameters(self) -> Map<String, Value> {
        let mut all = Parameters::default();
        all.put_if("local", self.local);
        all.put_all("verdict", self.verdict);
        all.put_all("kind", self.kind);
        all.put_all("attack", self.attack);
        all.put_all("technique", self.technique);
        all.put_all("file", self.file);
        all.put_all("user", self.user);
        all.put_if("deep", self.deep);
        let root = self.root.map(|root| std::path::absolute(&root).unwrap_or(root));
        all.put_some("root", root.map(|root| root.to_string_lossy().into_owned()));
        all.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn flags_have_the_names_of_the_parameters() {
        let flags = PersistenceFlags {
            local: true,
            kind: vec!["cron".to_owned()],
            root: Some("/mnt".into()),
            ..Default::default()
        };

        assert_eq!(
            Value::Object(flags.parameters()),
            json!({"local": true, "kind": ["cron"], "root": "/mnt"})
        );
        assert!(PersistenceFlags::default().parameters().is_empty());
    }
}
