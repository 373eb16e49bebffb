//! What messages and fields are for, in Kubernetes' own words: packed by the build script, unpacked only while a document is made.

use std::{borrow::Cow, collections::HashMap, io::Read};

use flate2::read::ZlibDecoder;

/// `build.rs` says what is in it.
const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.zz"));

/// The unpacked text, about 1 MB: hold it while [`Descriptions`] are used, not longer.
pub(super) fn unpack() -> String {
    let mut text = String::new();
    // What the build script packed unpacks; if not, documents have no descriptions.
    if ZlibDecoder::new(PACKED).read_to_string(&mut text).is_err() {
        text.clear();
    }
    text
}

/// Descriptions by the published name of a message.
pub(super) struct Descriptions<'t> {
    messages: HashMap<&'t str, Message<'t>>,
}

/// A message's words, and the lines of its fields.
#[derive(Clone, Copy)]
pub(super) struct Message<'t> {
    words: &'t str,
    fields: &'t str,
}

impl<'t> Descriptions<'t> {
    /// Finds the messages in a text of [`unpack`].
    pub(super) fn read(text: &'t str) -> Self {
        let mut messages = HashMap::new();
        let mut rest = text;
        while let Some((line, after)) = rest.split_once('\n') {
            let end = fields_end(after);
            if let Some((name, words)) = line.split_once('\t') {
                messages.insert(name, Message { words, fields: &after[..end] });
            }
            rest = &after[end..];
        }
        Self { messages }
    }

    /// The message of this published name.
    pub(super) fn message(&self, name: &str) -> Option<Message<'t>> {
        self.messages.get(name).copied()
    }
}

/// Where the lines that begin with a tab end.
fn fields_end(text: &str) -> usize {
    text.split_inclusive('\n').take_while(|line| line.starts_with('\t')).map(str::len).sum()
}

impl<'t> Message<'t> {
    /// What the message is; empty when nobody says.
    pub(super) fn words(self) -> Cow<'t, str> {
        unescaped(self.words)
    }

    /// What one of its fields is.
    pub(super) fn field(self, name: &str) -> Option<Cow<'t, str>> {
        let mut lines = self.fields.lines().filter_map(|line| line.strip_prefix('\t')?.split_once('\t'));
        lines.find(|(field, _)| *field == name).map(|(_, words)| unescaped(words))
    }
}

fn unescaped(words: &str) -> Cow<'_, str> {
    if !words.contains('\\') {
        return Cow::Borrowed(words);
    }
    let mut text = String::with_capacity(words.len());
    let mut chars = words.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(if chars.next() == Some('n') { '\n' } else { '\\' }),
            other => text.push(other),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_fields_are_found_with_their_words() {
        let text = "a.Pod\tA pod.\n\tspec\tIts\\nspec with a \\\\.\n\tstatus\tIts status.\na.Empty\t\na.Node\tA node.\n\tx\tX.\n";
        let all = Descriptions::read(text);
        let pod = all.message("a.Pod").unwrap();
        assert_eq!((pod.words(), pod.field("spec").unwrap()), ("A pod.".into(), "Its\nspec with a \\.".into()));
        assert_eq!(pod.field("x"), None);
        assert_eq!(all.message("a.Empty").unwrap().words(), "");
        assert_eq!(all.message("a.Node").unwrap().field("x").unwrap(), "X.");
        assert!(all.message("a.Other").is_none());
    }

    #[test]
    fn the_build_found_the_words_of_what_people_explain() {
        let text = unpack();
        let all = Descriptions::read(&text);
        let container = all.message("io.k8s.api.core.v1.Container").unwrap();
        assert!(container.words().contains("container"));
        assert!(container.field("imagePullPolicy").unwrap().contains("IfNotPresent"));
        assert!(all.message("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap().field("name").is_some());
        assert!(PACKED.len() < 400 << 10, "{} bytes", PACKED.len());
    }
}
