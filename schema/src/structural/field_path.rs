//! Paths to fields as definitions write them (`.spec.color`, `.spec['a.b']`), followed through a schema (apiextensions-apiserver
//! `schema/cel/validation.go`, `ValidFieldPath`).

use super::props::{OrBool, Props};

/// Where a path leads.
pub(super) struct Target<'a> {
    /// The path as field errors write it.
    pub(super) path: String,
    /// Its first member.
    pub(super) first: String,
    /// The schema there; none where members may be anything.
    pub(super) schema: Option<Props<'a>>,
}

/// Follows a path. `brackets`: names may stand in brackets and quotes.
pub(super) fn resolve<'a>(path: &str, schema: Props<'a>, brackets: bool) -> Result<Target<'a>, String> {
    let mut target = Target { path: String::new(), first: String::new(), schema: Some(schema) };
    let mut tokens = Tokens { rest: path };
    let end = || "unexpected end of JSON path".to_owned();
    while let Some(token) = tokens.next() {
        match token {
            "[" if !brackets => return Err("array notation is not allowed".into()),
            "[" => {
                let token = tokens.next().ok_or_else(end)?;
                let inner = token.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).filter(|_| token.len() >= 2);
                let inner = inner.ok_or_else(|| format!("expected single quoted string but got {token}"))?;
                target.step(&inner.replace("\\'", "'").replace("\\\\", "\\"))?;
                match tokens.next().ok_or_else(end)? {
                    "]" => {}
                    other => return Err(format!("expected ] but got {other}")),
                }
            }
            "." => target.step(tokens.next().ok_or_else(end)?)?,
            other => return Err(format!("expected [ or . but got: {other}")),
        }
    }
    Ok(target)
}

impl Target<'_> {
    fn step(&mut self, name: &str) -> Result<(), String> {
        let nowhere = || "does not refer to a valid field".to_owned();
        let schema = self.schema.ok_or_else(nowhere)?;
        let named = schema.has_any("properties");
        self.schema = if named {
            Some(schema.property(name).ok_or_else(nowhere)?)
        } else {
            match schema.additional().ok_or_else(nowhere)? {
                OrBool::Schema(below) => Some(below),
                OrBool::Bool(_) => None,
            }
        };
        if self.first.is_empty() {
            name.clone_into(&mut self.first);
        }
        match named {
            true if self.path.is_empty() => self.path.push_str(name),
            true => self.path.extend([".", name]),
            false => self.path.extend(["[", name, "]"]),
        }
        Ok(())
    }
}

/// Delimiters by themselves, and what stands between them; quotes hide delimiters.
struct Tokens<'p> {
    rest: &'p str,
}

impl<'p> Iterator for Tokens<'p> {
    type Item = &'p str;

    fn next(&mut self) -> Option<&'p str> {
        let quoted = self.rest.starts_with('\'');
        let mut before = ' ';
        let mut end = self.rest.len();
        for (at, c) in self.rest.char_indices() {
            if quoted {
                if at > 0 && c == '\'' && before != '\\' {
                    end = at + 1;
                    break;
                }
            } else if matches!(c, '.' | '[' | ']') {
                end = at.max(1);
                break;
            }
            before = c;
        }
        let (token, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn paths_lead_through_properties_and_maps() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"color": {"type": "string"},
            "a.b": {"type": "integer"}, "map": {"type": "object", "additionalProperties": {"type": "boolean"}}}}}});
        let schema = Props::of(&schema).unwrap();
        let to = |path, brackets| {
            resolve(path, schema, brackets).map(|t| (t.path, t.schema.map(|s| s.text("type").to_owned()).unwrap_or_default()))
        };
        assert_eq!(to(".spec.color", false).unwrap(), ("spec.color".into(), "string".into()));
        assert_eq!(to(".spec['a.b']", true).unwrap(), ("spec.a.b".into(), "integer".into()));
        assert_eq!(to(".spec.map.k", true).unwrap(), ("spec.map[k]".into(), "boolean".into()));
        assert_eq!(to(".spec['a.b']", false).unwrap_err(), "array notation is not allowed");
        assert_eq!(to("spec", false).unwrap_err(), "expected [ or . but got: spec");
        assert_eq!(to(".spec.shape", false).unwrap_err(), "does not refer to a valid field");
        assert_eq!(to(".spec.", false).unwrap_err(), "unexpected end of JSON path");
        assert_eq!(to(".spec[0]", true).unwrap_err(), "expected single quoted string but got 0");
    }
}
