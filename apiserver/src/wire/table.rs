//! `meta.k8s.io Table`: objects as rows that a client prints as they come (apiserver's `endpoints/handlers/response.go`).

use bytes::Bytes;
use coracle_tree::{Value, json};
use jiff::Timestamp;

use super::{Status, negotiate::MetaVersion};

/// What a row carries of its object (`includeObject`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Include {
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
    /// Nothing.
    None,
}

/// The definition of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column<'a> {
    /// Its head.
    pub name: &'a str,
    /// OpenAPI type: `string`, `integer`, `boolean`, `date`, `number`.
    pub kind: &'a str,
    /// OpenAPI format; `name` for the object's name.
    pub format: &'a str,
    /// What it shows.
    pub description: &'a str,
    /// 0: always shown; 1: only in wide output.
    pub priority: i32,
}

/// One row while a table is made.
#[derive(Debug)]
pub struct Row {
    /// The object.
    pub object: Value,
    /// A value for each column.
    pub cells: Vec<Value>,
    /// Position of the object in the list.
    at: usize,
}

/// How objects of a kind are printed.
pub trait Printer: Send + Sync {
    /// The columns.
    fn columns(&self) -> Vec<Column<'_>>;

    /// The cells of an object, one for each column.
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value>;

    /// The row's conditions; `Null` for most.
    fn conditions(&self, _object: &Value) -> Value {
        Value::Null
    }

    /// Reorders or marks the rows of a whole list. `None`: rows stand for themselves, in the order of the list.
    fn arrange(&self) -> Option<fn(&mut [Row])> {
        None
    }
}

/// What a client asked of a table.
#[derive(Clone, Copy, Debug)]
pub struct TableOptions {
    /// What rows carry.
    pub include: Include,
    /// Whether column definitions are sent. A watch sends them with its first event only.
    pub headers: bool,
    /// The time ages are measured at.
    pub now: Timestamp,
    /// What the table is of, and the metadata in it.
    pub meta: MetaVersion,
}

impl Include {
    /// Reads the query option; empty is [`Include::Metadata`].
    pub fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            "None" => Ok(Self::None),
            other => {
                let why = format!("includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty");
                Err(Status::bad_request(format!("Unable to convert to Table as requested: {why}")))
            }
        }
    }
}

impl<'a> Column<'a> {
    /// A column, all of it.
    pub const fn new(name: &'a str, kind: &'a str, format: &'a str, description: &'a str, priority: i32) -> Self {
        Self { name, kind, format, description, priority }
    }

    /// A column of text.
    pub const fn text(name: &'a str, description: &'a str) -> Self {
        Self::new(name, "string", "", description, 0)
    }

    /// A column of text that only wide output shows.
    pub const fn wide(name: &'a str, description: &'a str) -> Self {
        Self::new(name, "string", "", description, 1)
    }

    /// A column of whole numbers.
    pub const fn integer(name: &'a str, description: &'a str) -> Self {
        Self::new(name, "integer", "", description, 0)
    }

    /// A column of truth values.
    pub const fn boolean(name: &'a str, description: &'a str) -> Self {
        Self::new(name, "boolean", "", description, 0)
    }

    fn to_value(self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "format": self.format, "description": self.description, "priority": self.priority,
        })
    }
}

/// The table of one object, from its wire form.
pub fn one(printer: &dyn Printer, wire: &Bytes, options: TableOptions) -> Result<Bytes, Status> {
    let object = parse(wire)?;
    let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
    let mut out = head(printer, &json!({"resourceVersion": version}), options);
    let row = Row { cells: printer.cells(&object, options.now), object, at: 0 };
    push_row(&mut out, printer, &row, std::slice::from_ref(wire), options)?;
    Ok(tail(out))
}

/// The table of a list, from the wire forms of its objects; `meta` is the list's metadata.
pub fn list(printer: &dyn Printer, wires: &[Bytes], meta: &Value, options: TableOptions) -> Result<Bytes, Status> {
    let mut out = head(printer, meta, options);
    let made = |(at, wire): (usize, &Bytes)| {
        let object = parse(wire)?;
        Ok::<_, Status>(Row { cells: printer.cells(&object, options.now), object, at })
    };
    match printer.arrange() {
        None => {
            for numbered in wires.iter().enumerate() {
                separate(&mut out);
                push_row(&mut out, printer, &made(numbered)?, wires, options)?;
            }
        }
        Some(arrange) => {
            let mut rows = wires.iter().enumerate().map(made).collect::<Result<Vec<Row>, _>>()?;
            arrange(&mut rows);
            for row in &rows {
                separate(&mut out);
                push_row(&mut out, printer, row, wires, options)?;
            }
        }
    }
    Ok(tail(out))
}

fn parse(wire: &Bytes) -> Result<Value, Status> {
    serde_json::from_slice(wire).map_err(|e| Status::internal(format!("a stored object is not JSON: {e}")))
}

fn head(printer: &dyn Printer, meta: &Value, options: TableOptions) -> Vec<u8> {
    let columns: Value = if options.headers { printer.columns().into_iter().map(Column::to_value).collect() } else { Value::Null };
    let version = options.meta.name();
    let text = format!(r#"{{"kind":"Table","apiVersion":"{version}","metadata":{meta},"columnDefinitions":{columns},"rows":["#);
    text.into_bytes()
}

fn separate(out: &mut Vec<u8>) {
    if out.last() != Some(&b'[') {
        out.push(b',');
    }
}

fn push_row(out: &mut Vec<u8>, printer: &dyn Printer, row: &Row, wires: &[Bytes], options: TableOptions) -> Result<(), Status> {
    let failed = |e: serde_json::Error| Status::internal(e.to_string());
    out.extend_from_slice(br#"{"cells":"#);
    serde_json::to_writer(&mut *out, &row.cells).map_err(failed)?;
    let conditions = printer.conditions(&row.object);
    if !conditions.is_null() {
        out.extend_from_slice(br#","conditions":"#);
        serde_json::to_writer(&mut *out, &conditions).map_err(failed)?;
    }
    out.extend_from_slice(br#","object":"#);
    match options.include {
        Include::None => out.extend_from_slice(b"null"),
        Include::Object => out.extend_from_slice(wires.get(row.at).map_or(&b"null"[..], |w| w.trim_ascii_end())),
        Include::Metadata => {
            let head = format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{}","metadata":"#, options.meta.name());
            out.extend_from_slice(head.as_bytes());
            serde_json::to_writer(&mut *out, row.object.get("metadata").unwrap_or(&Value::Null)).map_err(failed)?;
            out.push(b'}');
        }
    }
    out.push(b'}');
    Ok(())
}

fn tail(mut out: Vec<u8>) -> Bytes {
    out.extend_from_slice(b"]}\n");
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Names;

    impl Printer for Names {
        fn columns(&self) -> Vec<Column<'_>> {
            vec![Column::new("Name", "string", "name", "n", 0), Column::wide("More", "m")]
        }

        fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
            vec![object["metadata"]["name"].clone(), 1.into()]
        }

        fn arrange(&self) -> Option<fn(&mut [Row])> {
            Some(<[Row]>::reverse)
        }
    }

    fn wire(name: &str) -> Bytes {
        json!({"metadata": {"name": name, "resourceVersion": "7"}, "data": name}).to_string().into()
    }

    fn options(include: Include, headers: bool) -> TableOptions {
        TableOptions { include, headers, now: Timestamp::UNIX_EPOCH, meta: MetaVersion::V1 }
    }

    fn read(bytes: &Bytes) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_list_is_arranged_and_each_row_keeps_its_own_object() {
        let table = read(&list(&Names, &[wire("a"), wire("b")], &json!({"continue": "c"}), options(Include::Object, true)).unwrap());
        assert_eq!(table["metadata"], json!({"continue": "c"}));
        let cells: Vec<&Value> = table["rows"].as_array().unwrap().iter().map(|r| &r["cells"]).collect();
        assert_eq!(cells, [&json!(["b", 1]), &json!(["a", 1])]);
        assert_eq!(table["rows"][0]["object"]["data"], "b");
        let more = json!({"name": "More", "type": "string", "format": "", "description": "m", "priority": 1});
        assert_eq!(table["columnDefinitions"][1], more);
    }

    #[test]
    fn rows_carry_metadata_or_nothing_and_an_empty_list_is_a_table_too() {
        let table = read(&one(&Names, &wire("a"), options(Include::Metadata, false)).unwrap());
        let expected =
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a", "resourceVersion": "7"}});
        assert_eq!((&table["rows"][0]["object"], &table["columnDefinitions"]), (&expected, &Value::Null));
        assert_eq!(table["metadata"]["resourceVersion"], "7");
        let bare = read(&one(&Names, &wire("a"), options(Include::None, false)).unwrap());
        assert_eq!(bare["rows"][0]["object"], Value::Null);
        assert_eq!(read(&list(&Names, &[], &json!({}), options(Include::None, true)).unwrap())["rows"], json!([]));
    }

    #[test]
    fn an_unknown_include_is_refused() {
        let text = Include::parse("All").unwrap_err().message;
        assert!(text.ends_with("includeObject: Invalid value: \"All\": must be 'Metadata', 'Object', 'None', or empty"), "{text}");
    }
}
