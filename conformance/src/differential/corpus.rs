//! What the servers are asked: objects of every kind (`*.yaml`, in order of the files' names), and single requests (`*.txt`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::http::Question;

/// The namespace of objects that name none.
pub(crate) const NAMESPACE: &str = "demo";

/// An object of the corpus.
pub(crate) struct Seed {
    /// The object, without status.
    pub(crate) object: Value,
    /// Its status, to be written by itself.
    pub(crate) status: Option<Value>,
    /// Others need it: made before anything else, and not spoiled.
    pub(crate) setup: bool,
}

impl Seed {
    /// `apps/v1`
    pub(crate) fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    /// `Deployment`
    pub(crate) fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// Its name; empty for reviews.
    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// Where it goes.
    pub(crate) fn namespace(&self) -> &str {
        let given = self.text("/metadata/namespace");
        if given.is_empty() { NAMESPACE } else { given }
    }

    fn text(&self, pointer: &str) -> &str {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

/// All objects of a folder.
pub(crate) fn seeds(folder: &Path) -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for file in files(folder, "yaml")? {
        let text = std::fs::read_to_string(&file)?;
        let setup = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("00"));
        for (at, document) in text.split("\n---\n").enumerate() {
            let place = || format!("{}: document {at}", file.display());
            let mut object: Value = serde_saphyr::from_str(document).with_context(place)?;
            let members = object.as_object_mut().with_context(place)?;
            let status = members.remove("status");
            seeds.push(Seed { object, status, setup });
        }
    }
    Ok(seeds)
}

/// All single requests of a folder: `METHOD PATH [CONTENT-TYPE]`, then the body up to an empty line.
pub(crate) fn requests(folder: &Path) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    for file in files(folder, "txt")? {
        questions.extend(parse(&std::fs::read_to_string(&file)?).with_context(|| file.display().to_string())?);
    }
    Ok(questions)
}

fn parse(text: &str) -> Result<Vec<Question>> {
    let mut questions: Vec<Question> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if line.is_empty() {
            open = false;
        } else if let (true, Some(question)) = (open, questions.last_mut()) {
            question.body += line;
            question.body.push('\n');
        } else if !line.starts_with('#') {
            let mut words = line.split(' ');
            let (method, path, content_type) = (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next());
            let content_type = content_type.unwrap_or("application/json");
            let Some(method) = ["GET", "POST", "PUT", "PATCH", "DELETE"].into_iter().find(|m| *m == method) else {
                bail!("no method begins {line:?}")
            };
            let content_type = known(content_type).with_context(|| format!("no known content type ends {line:?}"))?;
            questions.push(Question { method, path: path.to_owned(), content_type, body: String::new() });
            open = true;
        }
    }
    Ok(questions)
}

fn known(content_type: &str) -> Option<&'static str> {
    let all = [
        "application/json",
        "application/yaml",
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
        "text/plain",
    ];
    all.into_iter().find(|known| *known == content_type)
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("--corpus: cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == extension));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_a_line_and_a_body_each() {
        let found = parse("# about\nGET /a\n\nPATCH /b?x=1 application/json-patch+json\n[\n# not about\n]\n").unwrap();
        assert_eq!((found[0].method, found[0].body.as_str()), ("GET", ""));
        assert_eq!((found[1].path.as_str(), found[1].body.as_str()), ("/b?x=1", "[\n# not about\n]\n"));
        assert!(parse("LOOK /a").is_err());
    }
}
