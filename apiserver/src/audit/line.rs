//! An event as a line of JSON, its members in upstream's order. Where every request is written down twice, this is most of what that costs.

use std::ops::Range;

use bytes::Bytes;
use coracle_schema::{
    json::{write, write_text},
    time,
};
use serde_json::Value;

use super::event::{Event, Outcome, Stage};
use crate::authn::User;

/// A line that was written, and where in it what the next one begins with ends.
#[derive(Clone, Debug)]
pub(super) struct Written {
    line: Bytes,
    /// The head, up to the stage.
    head: usize,
    /// What was asked, if that is as it was.
    asked: Option<Range<usize>>,
    /// When it came.
    received: Range<usize>,
}

/// Bytes of most events without objects.
const USUAL: usize = 1024;
/// Bytes by which the last event of a request is longer than its first one, mostly.
const MORE: usize = 320;

impl Written {
    /// What was asked is another thing than what was written of it.
    pub(super) fn ask_anew(&mut self) {
        self.asked = None;
    }
}

impl Event {
    /// The event as a line of JSON. What an earlier line of it held, and is as it was, is taken from there.
    pub(super) fn line(&mut self) -> Bytes {
        let before = self.written.as_ref();
        let mut line = Members(Vec::with_capacity(before.map_or(USUAL, |before| before.line.len() + MORE)));
        match before {
            Some(before) => line.0.extend_from_slice(&before.line[..before.head]),
            None => {
                line.0.push(b'{');
                line.text("kind", "Event");
                line.text("apiVersion", "audit.k8s.io/v1");
                line.text("level", self.level.name());
                line.text("auditID", &self.audit_id);
            }
        }
        let head = line.0.len();
        line.text("stage", self.stage.name());
        let asked = line.0.len();
        match before.and_then(|before| Some(&before.line[before.asked.clone()?])) {
            Some(before) => line.0.extend_from_slice(before),
            None => self.asked(&mut line),
        }
        let asked = asked..line.0.len();
        self.answered(&mut line);
        let received = line.0.len();
        let came = before.is_none().then(|| time::micros(self.request_received_timestamp));
        match (before, &came) {
            (Some(before), _) => line.0.extend_from_slice(&before.line[before.received.clone()]),
            (None, came) => line.text("requestReceivedTimestamp", came.as_deref().unwrap_or_default()),
        }
        let received = received..line.0.len();
        let now = came.filter(|_| self.stage_timestamp == self.request_received_timestamp);
        line.text("stageTimestamp", &now.unwrap_or_else(|| time::micros(self.stage_timestamp)));
        if !self.annotations.is_empty() {
            line.object("annotations", |members| {
                self.annotations.iter().for_each(|(key, value)| write_text(value, members.key(key)));
            });
        }
        line.0.extend_from_slice(b"}\n");
        let line = Bytes::from(line.0);
        // What comes after the others comes soon, or it is the end of a watch, which may last for days.
        let another = self.stage == Stage::RequestReceived;
        self.written = another.then(|| Written { line: line.clone(), head, asked: Some(asked), received });
        line
    }

    /// What was asked, and by whom.
    fn asked(&self, line: &mut Members) {
        line.text("requestURI", &self.request_uri);
        line.text("verb", &self.verb);
        line.user("user", self.user.as_deref());
        if let Some(user) = &self.impersonated_user {
            line.user("impersonatedUser", Some(user));
        }
        if let Some(constraint) = self.impersonation_constraint {
            line.object("authenticationMetadata", |members| members.text("impersonationConstraint", constraint));
        }
        if !self.source_ips.is_empty() {
            texts(&self.source_ips, line.name("sourceIPs"));
        }
        line.told("userAgent", &self.user_agent);
        if let Some(object) = &self.object_ref {
            line.object("objectRef", |members| object.members().into_iter().for_each(|(name, text)| members.told(name, text)));
        }
    }

    /// How it ended, as far as it has.
    fn answered(&self, line: &mut Members) {
        match &self.response_status {
            Some(Outcome::Told(status)) => line.value("responseStatus", status),
            Some(Outcome::Code(code)) => line.object("responseStatus", |members| {
                members.name("code").extend_from_slice(code.to_string().as_bytes());
                members.object("metadata", |_| {});
            }),
            None => {}
        }
        for (name, object) in [("requestObject", &self.request_object), ("responseObject", &self.response_object)] {
            if let Some(object) = object {
                line.value(name, object);
            }
        }
    }
}

/// The members of an object that is not closed yet.
struct Members(Vec<u8>);

impl Members {
    /// A member of ours up to its value, which the caller appends.
    fn name(&mut self, name: &'static str) -> &mut Vec<u8> {
        self.separate();
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        &mut self.0
    }

    /// A member of whatever name up to its value.
    fn key(&mut self, name: &str) -> &mut Vec<u8> {
        self.separate();
        write_text(name, &mut self.0);
        self.0.push(b':');
        &mut self.0
    }

    fn separate(&mut self) {
        if self.0.last() != Some(&b'{') {
            self.0.push(b',');
        }
    }

    fn text(&mut self, name: &'static str, text: &str) {
        write_text(text, self.name(name));
    }

    /// A text that is left out when it is empty.
    fn told(&mut self, name: &'static str, text: &str) {
        if !text.is_empty() {
            self.text(name, text);
        }
    }

    fn value(&mut self, name: &'static str, value: &Value) {
        // However deep: it was read or made here.
        let _cannot_fail = write(value, usize::MAX, self.name(name));
    }

    fn object(&mut self, name: &'static str, fill: impl FnOnce(&mut Self)) {
        self.name(name).push(b'{');
        fill(self);
        self.0.push(b'}');
    }

    fn user(&mut self, name: &'static str, user: Option<&User>) {
        self.object(name, |members| {
            let Some(user) = user else { return };
            members.told("username", &user.name);
            members.told("uid", &user.uid);
            if !user.groups.is_empty() {
                texts(&user.groups, members.name("groups"));
            }
            if !user.extra.is_empty() {
                members.object("extra", |members| user.extra.iter().for_each(|(key, values)| texts(values, members.key(key))));
            }
        });
    }
}

fn texts(all: &[impl AsRef<str>], out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, text) in all.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_text(text.as_ref(), out);
    }
    out.push(b']');
}
