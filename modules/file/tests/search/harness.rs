//! A tree of files, and questions about it.

use std::path::{Path, PathBuf};

use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use vigie_file::File;
use vigie_sdk::{ModuleResult, Query, StandardModule};

/// A directory that goes away with the test.
pub(crate) struct Tree {
    /// Removes the tree when it is dropped.
    _directory: tempfile::TempDir,
    root: PathBuf,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        Self { _directory: directory, root }
    }

    /// A tree with these files.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let tree = Self::new();
        for (path, content) in files {
            tree.write(path, content);
        }
        tree
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    pub(crate) fn text(&self, path: &str) -> String {
        self.path(path).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A search of the whole tree with these fields; `paths` among them replaces the tree.
    pub(crate) fn search(&self, fields: Value) -> Value {
        let mut search = json!({"paths": [self.text("")]});
        search.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        search
    }

    /// What a search with `matchall` and these fields finds, as sorted paths below the tree.
    pub(crate) fn find(&self, fields: Value) -> Vec<String> {
        let mut fields = fields;
        let options = fields.as_object_mut().unwrap().entry("options").or_insert_with(|| json!({}));
        options.as_object_mut().unwrap().entry("matchall").or_insert(json!(true));
        let result = ask(&json!({"searches": {"s": self.search(fields)}}));
        assert!(result.success, "{result:?}");
        self.files(&elements(&result)["s"])
    }

    /// The files of a list of matches, below the tree.
    pub(crate) fn files(&self, matches: &Value) -> Vec<String> {
        let files = matches.as_array().unwrap().iter().map(|found| found["file"].as_str().unwrap());
        let files = files.filter(|file| !file.is_empty());
        files
            .map(|file| Path::new(file).strip_prefix(&self.root).unwrap().to_str().unwrap().to_owned())
            .collect()
    }
}

pub(crate) fn query(parameters: &Value) -> Query {
    Query::new(Some(to_raw_value(parameters).unwrap()))
}

pub(crate) fn ask(parameters: &Value) -> ModuleResult {
    File::run(&query(parameters))
}

pub(crate) fn elements(result: &ModuleResult) -> Value {
    serde_json::from_str(result.elements.as_ref().unwrap().get()).unwrap()
}

pub(crate) fn statistics(result: &ModuleResult) -> Value {
    serde_json::from_str(result.statistics.as_ref().unwrap().get()).unwrap()
}
