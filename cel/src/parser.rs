//! Tokens to a tree, macros expanded (cel-go `parser/`). Depth and size are bounded as upstream bounds them.

use crate::ast::{Call, Element, Entry, Expr, Field, Id, Node, Select, Struct};
use crate::escape::reserved;
use crate::lexer::{self, Kind, Token};
use crate::literal;
use crate::source::Source;

/// The longest expression, in code points.
const SIZE_LIMIT: usize = 100_000;
/// The deepest nesting, in source and in the tree.
const DEPTH_LIMIT: u16 = 250;
/// The most nodes of a tree: macros copy their operands, so a short text could become a tree without end.
const NODE_LIMIT: usize = 200_000;

/// A parsed expression: the tree, and where each of its nodes stands in the text.
pub(crate) struct Parsed {
    pub(crate) root: Expr,
    /// By node, in bytes.
    pub(crate) offsets: Vec<usize>,
}

/// Whether an expression asks a variable for a field by its name: `variable.field`, `has(variable.field)`, `variable.?field`.
pub fn selects(text: &str, variable: &str, field: &str) -> bool {
    let Some(parsed) = parse(text, false, &mut Source::new(text)) else { return false };
    let mut found = false;
    parsed.root.visit(&mut |expr, _| {
        found |= match &expr.node {
            Node::Select(select) => select.operand.as_ident() == Some(variable) && select.field == field,
            Node::Call(call) if call.function == "_?._" => match call.args.as_slice() {
                [operand, name] => {
                    operand.as_ident() == Some(variable)
                        && matches!(name.as_literal(), Some(crate::ast::Literal::String(name)) if name == field)
                }
                _ => false,
            },
            _ => false,
        };
    });
    found
}

/// Parses `source`; what is wrong with it is reported there.
/// `bindings`: `cel.bind` is a macro.
pub(crate) fn parse(text: &str, bindings: bool, source: &mut Source<'_>) -> Option<Parsed> {
    let size = text.chars().count();
    if size > SIZE_LIMIT {
        source.report_all(format!("expression code point size exceeds limit: size: {size}, limit {SIZE_LIMIT}"));
        return None;
    }
    let tokens = lexer::tokens(text, source);
    let mut parser = Parser { tokens, next: 0, offsets: Vec::new(), depth: 0, bindings, source };
    let root = parser.whole();
    let offsets = parser.offsets;
    match root {
        Ok(root) if !source.failed() => Some(Parsed { root, offsets }),
        _ => None,
    }
}

/// A syntax error that has been reported: nothing sensible follows.
pub(crate) struct Reported;

pub(crate) type Parse<T> = Result<T, Reported>;

pub(crate) struct Parser<'a, 's, 't> {
    tokens: Vec<Token<'a>>,
    next: usize,
    offsets: Vec<usize>,
    depth: u16,
    pub(crate) bindings: bool,
    source: &'s mut Source<'t>,
}

const OPERAND: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Binary operators by binding strength, weakest first; the two weakest are balanced, the others lean to the left.
fn binary(sign: &str) -> Option<(u8, &'static str)> {
    Some(match sign {
        "<" => (3, "_<_"),
        "<=" => (3, "_<=_"),
        ">" => (3, "_>_"),
        ">=" => (3, "_>=_"),
        "==" => (3, "_==_"),
        "!=" => (3, "_!=_"),
        "in" => (3, "@in"),
        "+" => (4, "_+_"),
        "-" => (4, "_-_"),
        "*" => (5, "_*_"),
        "/" => (5, "_/_"),
        "%" => (5, "_%_"),
        _ => return None,
    })
}

impl<'a> Parser<'a, '_, '_> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.next]
    }

    fn advance(&mut self) -> Token<'a> {
        let token = self.peek();
        if token.kind != Kind::End {
            self.next += 1;
        }
        token
    }

    fn at(&self, sign: &str) -> bool {
        let token = self.peek();
        token.kind == Kind::Sign && token.text == sign
    }

    fn take(&mut self, sign: &str) -> Option<Token<'a>> {
        self.at(sign).then(|| self.advance())
    }

    fn want(&mut self, sign: &str) -> Parse<Token<'a>> {
        match self.take(sign) {
            Some(token) => Ok(token),
            None => Err(self.unexpected(&format!("'{sign}'"))),
        }
    }

    /// As [`Parser::want`] at the end of what stands between brackets.
    fn close(&mut self, sign: &str) -> Parse<()> {
        match self.take(sign) {
            Some(_) => Ok(()),
            None => Err(self.unexpected(&format!("{{'{sign}', ','}}"))),
        }
    }

    fn unexpected(&mut self, wanted: &str) -> Reported {
        let token = self.peek();
        self.source.report(token.at, format!("Syntax error: mismatched input '{}' expecting {wanted}", token.text));
        Reported
    }

    pub(crate) fn id(&mut self, offset: usize) -> Id {
        self.offsets.push(offset);
        Id::try_from(self.offsets.len() - 1).unwrap_or(Id::MAX)
    }

    /// Makes sure that so many more nodes are allowed.
    pub(crate) fn reserve(&mut self, nodes: usize) -> Parse<()> {
        if self.offsets.len() + nodes <= NODE_LIMIT {
            return Ok(());
        }
        self.source.report_all(format!("expression has too many nodes: limit {NODE_LIMIT}"));
        Err(Reported)
    }

    /// Where a node stands.
    pub(crate) fn offset(&self, id: Id) -> usize {
        self.offsets.get(id as usize).copied().unwrap_or_default()
    }

    /// Reports `message` at `offset` and goes on with a placeholder.
    pub(crate) fn report(&mut self, offset: usize, message: &str) -> Expr {
        self.source.report(offset, message);
        let id = self.id(offset);
        Expr::new(id, Node::Missing)
    }

    pub(crate) fn node(&mut self, offset: usize, node: Node) -> Parse<Expr> {
        let id = self.id(offset);
        let expr = Expr::new(id, node);
        if expr.height > DEPTH_LIMIT {
            self.source.report_all("max recursion depth exceeded");
            return Err(Reported);
        }
        Ok(expr)
    }

    /// A call of a function that is no macro.
    pub(crate) fn call(&mut self, offset: usize, function: &str, target: Option<Expr>, args: Vec<Expr>) -> Parse<Expr> {
        self.node(offset, Node::Call(Box::new(Call { function: function.to_string(), target, args })))
    }

    fn whole(&mut self) -> Parse<Expr> {
        let expr = self.expression()?;
        let token = self.peek();
        if token.kind == Kind::End {
            return Ok(expr);
        }
        self.source.report(token.at, format!("Syntax error: extraneous input '{}' expecting <EOF>", token.text));
        Err(Reported)
    }

    fn expression(&mut self) -> Parse<Expr> {
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            self.source.report_all(format!("expression recursion limit exceeded: {DEPTH_LIMIT}"));
            return Err(Reported);
        }
        let condition = self.logical("||", "_||_")?;
        let result = match self.take("?") {
            None => condition,
            Some(sign) => {
                let yes = self.logical("||", "_||_")?;
                self.want(":")?;
                let no = self.expression()?;
                self.call(sign.at, "_?_:_", None, vec![condition, yes, no])?
            }
        };
        self.depth -= 1;
        Ok(result)
    }

    /// A chain of `||` or `&&`, as a balanced tree, so that long chains are not deep.
    fn logical(&mut self, sign: &str, function: &str) -> Parse<Expr> {
        let mut terms = vec![self.term(sign)?];
        let mut signs = Vec::new();
        while let Some(token) = self.take(sign) {
            signs.push(token.at);
            terms.push(self.term(sign)?);
        }
        let mut terms = terms.into_iter();
        self.balanced(&signs, function, &mut terms)
    }

    fn term(&mut self, sign: &str) -> Parse<Expr> {
        if sign == "||" { self.logical("&&", "_&&_") } else { self.chain(3) }
    }

    fn balanced(&mut self, signs: &[usize], function: &str, terms: &mut std::vec::IntoIter<Expr>) -> Parse<Expr> {
        let middle = signs.len() / 2;
        match signs.get(middle) {
            None => terms.next().ok_or(Reported),
            Some(&at) => {
                let left = self.balanced(&signs[..middle], function, terms)?;
                let right = self.balanced(&signs[middle + 1..], function, terms)?;
                self.call(at, function, None, vec![left, right])
            }
        }
    }

    fn chain(&mut self, strength: u8) -> Parse<Expr> {
        let mut left = self.unary()?;
        loop {
            let token = self.peek();
            let Some((found, function)) = (token.kind == Kind::Sign).then(|| binary(token.text)).flatten() else { return Ok(left) };
            if found < strength {
                return Ok(left);
            }
            self.advance();
            let right = self.chain(found + 1)?;
            left = self.call(token.at, function, None, vec![left, right])?;
        }
    }

    fn unary(&mut self) -> Parse<Expr> {
        for (sign, function) in [("!", "!_"), ("-", "-_")] {
            let Some(first) = self.take(sign) else { continue };
            // A minus directly before a number belongs to the number.
            if sign == "-" && matches!(self.peek().kind, Kind::Int | Kind::Float) {
                let number = self.number(Some(first.at))?;
                return self.member(number);
            }
            let mut odd = true;
            while self.take(sign).is_some() {
                odd = !odd;
            }
            let primary = self.primary()?;
            let operand = self.member(primary)?;
            return if odd { self.call(first.at, function, None, vec![operand]) } else { Ok(operand) };
        }
        let primary = self.primary()?;
        self.member(primary)
    }

    /// Selections, method calls and indexing that follow a primary.
    fn member(&mut self, mut operand: Expr) -> Parse<Expr> {
        loop {
            if let Some(dot) = self.take(".") {
                let optional = self.take("?").is_some();
                let name = self.advance();
                operand = match name.kind {
                    Kind::Ident if !optional && self.at("(") => {
                        let open = self.advance();
                        let args = self.arguments()?;
                        self.macro_or_call(open.at, name.text, Some(operand), args)?
                    }
                    Kind::Ident => self.select(dot.at, name.at, operand, name.text, optional)?,
                    Kind::Escaped => self.select(dot.at, name.at, operand, &name.text[1..name.text.len() - 1], optional)?,
                    _ => {
                        self.next -= usize::from(name.kind != Kind::End);
                        return Err(self.no_field(name));
                    }
                };
            } else if let Some(open) = self.take("[") {
                let function = if self.take("?").is_some() { "_[?_]" } else { "_[_]" };
                let index = self.expression()?;
                self.want("]")?;
                operand = self.call(open.at, function, None, vec![operand, index])?;
            } else if self.at("{") {
                let Some(name) = dotted(&operand) else { return Ok(operand) };
                let open = self.advance();
                operand = self.message(open.at, name)?;
            } else {
                return Ok(operand);
            }
        }
    }

    fn no_field(&mut self, name: Token<'_>) -> Reported {
        let message = if matches!(name.text, "true" | "false" | "null") {
            format!("Syntax error: mismatched input '{}' expecting IDENTIFIER", name.text)
        } else {
            format!("Syntax error: no viable alternative at input '.{}'", if name.kind == Kind::End { "" } else { name.text })
        };
        self.source.report(name.at, message);
        Reported
    }

    fn select(&mut self, dot: usize, at: usize, operand: Expr, field: &str, optional: bool) -> Parse<Expr> {
        if !optional {
            return self.node(dot, Node::Select(Box::new(Select { operand, field: field.to_string(), test: false })));
        }
        let field = self.node(at, Node::Literal(crate::ast::Literal::String(field.to_string())))?;
        self.call(dot, "_?._", None, vec![operand, field])
    }

    fn primary(&mut self) -> Parse<Expr> {
        let token = self.peek();
        match token.kind {
            Kind::Ident => {
                self.advance();
                self.name(token, "")
            }
            Kind::Int | Kind::Uint | Kind::Float => self.number(None),
            Kind::String | Kind::Bytes => {
                self.advance();
                match literal::text(token.text, token.kind == Kind::Bytes) {
                    Ok(literal) => self.node(token.at, Node::Literal(literal)),
                    Err(message) => Ok(self.report(token.at, message)),
                }
            }
            Kind::Sign => self.sign(token),
            Kind::End | Kind::Escaped => Err(self.unexpected(OPERAND)),
        }
    }

    fn sign(&mut self, token: Token<'a>) -> Parse<Expr> {
        use crate::ast::Literal::{Bool, Null};
        let constant = match token.text {
            "true" => Some(Bool(true)),
            "false" => Some(Bool(false)),
            "null" => Some(Null),
            "(" | "[" | "{" | "." => None,
            _ => return Err(self.unexpected(OPERAND)),
        };
        self.advance();
        match (constant, token.text) {
            (Some(constant), _) => self.node(token.at, Node::Literal(constant)),
            (None, "(") => {
                let inner = self.expression()?;
                if self.peek().kind == Kind::End {
                    self.source.report(self.peek().at, "Syntax error: missing ')' at '<EOF>'");
                    return Err(Reported);
                }
                self.want(")")?;
                Ok(inner)
            }
            (None, "[") => self.list(token.at),
            (None, "{") => self.map(token.at),
            (None, _) => {
                let name = self.peek();
                if name.kind != Kind::Ident {
                    return Err(self.unexpected("IDENTIFIER"));
                }
                self.advance();
                self.name(name, ".")
            }
        }
    }

    /// An identifier or the call of a function; `dot` if the name is absolute.
    fn name(&mut self, token: Token<'a>, dot: &str) -> Parse<Expr> {
        if reserved(token.text) {
            return Ok(self.report(token.at, &format!("reserved identifier: {}", token.text)));
        }
        let name = format!("{dot}{}", token.text);
        match self.take("(") {
            Some(open) => {
                let args = self.arguments()?;
                self.macro_or_call(open.at, &name, None, args)
            }
            None => self.node(token.at, Node::Ident(name)),
        }
    }

    fn arguments(&mut self) -> Parse<Vec<Expr>> {
        let mut args = Vec::new();
        if self.take(")").is_some() {
            return Ok(args);
        }
        if self.peek().kind == Kind::End {
            return Err(self.unexpected(&OPERAND.replace("'(', ", "'(', ')', ")));
        }
        loop {
            args.push(self.expression()?);
            if self.take(",").is_none() {
                self.close(")")?;
                return Ok(args);
            }
        }
    }

    fn number(&mut self, minus: Option<usize>) -> Parse<Expr> {
        let token = self.advance();
        let (value, what) = match token.kind {
            Kind::Int => (literal::int(token.text, minus.is_some()), "int"),
            Kind::Uint => (literal::uint(token.text), "uint"),
            _ => (literal::double(token.text, minus.is_some()), "double"),
        };
        let at = minus.unwrap_or(token.at);
        match value {
            Some(value) => self.node(at, Node::Literal(value)),
            None => Ok(self.report(at, &format!("invalid {what} literal"))),
        }
    }

    /// Parses what stands between brackets, separated by commas; a comma may stand at the end.
    fn separated<T>(&mut self, close: &str, mut one: impl FnMut(&mut Self) -> Parse<T>) -> Parse<Vec<T>> {
        let mut all = Vec::new();
        loop {
            if all.is_empty() {
                self.take(",");
            }
            if self.take(close).is_some() {
                return Ok(all);
            }
            all.push(one(self)?);
            if self.take(",").is_none() {
                self.close(close)?;
                return Ok(all);
            }
        }
    }

    fn list(&mut self, open: usize) -> Parse<Expr> {
        let elements = self.separated("]", |parser| {
            let optional = parser.take("?").is_some();
            Ok(Element { value: parser.expression()?, optional })
        })?;
        self.node(open, Node::List(elements))
    }

    fn map(&mut self, open: usize) -> Parse<Expr> {
        let entries = self.separated("}", |parser| {
            let optional = parser.take("?").is_some();
            let key = parser.expression()?;
            parser.want(":")?;
            Ok(Entry { key, value: parser.expression()?, optional })
        })?;
        self.node(open, Node::Map(entries))
    }

    fn message(&mut self, open: usize, name: String) -> Parse<Expr> {
        let fields = self.separated("}", |parser| {
            let optional = parser.take("?").is_some();
            let name = parser.peek();
            let text = match name.kind {
                Kind::Ident => name.text,
                Kind::Escaped => &name.text[1..name.text.len() - 1],
                _ => return Err(parser.unexpected("{IDENTIFIER, ESC_IDENTIFIER}")),
            };
            parser.advance();
            let colon = parser.want(":")?;
            let value = parser.expression()?;
            Ok(Field { id: parser.id(colon.at), name: text.to_string(), value, optional })
        })?;
        self.node(open, Node::Struct(Box::new(Struct { name, fields })))
    }
}

/// The dotted name that a chain of selections spells.
pub(crate) fn dotted(expr: &Expr) -> Option<String> {
    match &expr.node {
        Node::Ident(name) => Some(name.clone()),
        Node::Select(select) if !select.test => Some(format!("{}.{}", dotted(&select.operand)?, select.field)),
        _ => None,
    }
}
