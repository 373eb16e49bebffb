//! What the parser makes of text.

/// Names a node; unique within one expression.
pub(crate) type Id = u32;

#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) id: Id,
    /// Levels of nodes below and including this one.
    pub(crate) height: u16,
    pub(crate) node: Node,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// Stands where a syntax error was.
    Missing,
    Literal(Literal),
    Ident(String),
    Select(Box<Select>),
    Call(Box<Call>),
    List(Vec<Element>),
    Map(Vec<Entry>),
    Struct(Box<Struct>),
    Fold(Box<Fold>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(crate) struct Select {
    pub(crate) operand: Expr,
    pub(crate) field: String,
    /// `has(operand.field)`.
    pub(crate) test: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) function: String,
    pub(crate) target: Option<Expr>,
    pub(crate) args: Vec<Expr>,
}

#[derive(Clone, Debug)]
pub(crate) struct Element {
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Expr,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Struct {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

/// What a fold does at each step: macros expand to these forms only, so each is evaluated by a loop of its own.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// `all`: stops at the first element of which the predicate is false.
    All(Expr),
    /// `exists`.
    Exists(Expr),
    /// `exists_one`.
    ExistsOne(Expr),
    /// `map`, `filter`, `transformList`.
    Append { filter: Option<Expr>, item: Expr },
    /// `transformMap`: the key is the first variable.
    Insert { filter: Option<Expr>, value: Expr },
    /// `transformMapEntry`.
    InsertEntry { filter: Option<Expr>, entry: Expr },
    /// Binds the variable to the range and computes one expression: `optMap`, `sortBy`.
    Bind(Expr),
}

#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub(crate) range: Expr,
    pub(crate) var: String,
    pub(crate) var2: Option<String>,
    pub(crate) step: Step,
}

impl Expr {
    pub(crate) fn new(id: Id, node: Node) -> Expr {
        let height = 1 + node.children().iter().map(|child| child.height).max().unwrap_or(0);
        Expr { id, height, node }
    }

    pub(crate) fn as_ident(&self) -> Option<&str> {
        match &self.node {
            Node::Ident(name) => Some(name),
            _ => None,
        }
    }

    pub(crate) fn as_literal(&self) -> Option<&Literal> {
        match &self.node {
            Node::Literal(literal) => Some(literal),
            _ => None,
        }
    }

    /// Calls `visit` for this node and all below, parents first, telling the names of the functions around it.
    pub(crate) fn visit<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr, &[&'a str])) {
        let mut around = Vec::new();
        self.visit_within(&mut around, visit);
    }

    fn visit_within<'a>(&'a self, around: &mut Vec<&'a str>, visit: &mut dyn FnMut(&'a Expr, &[&'a str])) {
        visit(self, around);
        let call = match &self.node {
            Node::Call(call) => Some(call.function.as_str()),
            _ => None,
        };
        around.extend(call);
        for child in self.node.children() {
            child.visit_within(around, visit);
        }
        if call.is_some() {
            around.pop();
        }
    }
}

impl Node {
    fn children(&self) -> Vec<&Expr> {
        match self {
            Node::Missing | Node::Literal(_) | Node::Ident(_) => Vec::new(),
            Node::Select(select) => vec![&select.operand],
            Node::Call(call) => call.target.iter().chain(&call.args).collect(),
            Node::List(elements) => elements.iter().map(|element| &element.value).collect(),
            Node::Map(entries) => entries.iter().flat_map(|entry| [&entry.key, &entry.value]).collect(),
            Node::Struct(message) => message.fields.iter().map(|field| &field.value).collect(),
            Node::Fold(fold) => std::iter::once(&fold.range).chain(fold.step.parts()).collect(),
        }
    }
}

impl Step {
    pub(crate) fn parts(&self) -> Vec<&Expr> {
        match self {
            Step::All(one) | Step::Exists(one) | Step::ExistsOne(one) | Step::Bind(one) => vec![one],
            Step::Append { filter, item: one } | Step::Insert { filter, value: one } | Step::InsertEntry { filter, entry: one } => {
                filter.iter().chain([one]).collect()
            }
        }
    }
}

impl Step {
    pub(crate) fn parts_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            Step::All(one) | Step::Exists(one) | Step::ExistsOne(one) | Step::Bind(one) => vec![one],
            Step::Append { filter, item: one } | Step::Insert { filter, value: one } | Step::InsertEntry { filter, entry: one } => {
                filter.iter_mut().chain([one]).collect()
            }
        }
    }
}
