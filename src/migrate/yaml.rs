//! YAML as PaddleServing reads it: PyYAML's `FullLoader`, so the scalars of YAML 1.1, where `yes` is a boolean and
//! `010` is 8. Bounded in size, depth and nodes, aliases counted at what they stand for, every node with its line.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

/// Largest file, bytes; the longest `config.yml` among PaddleServing's examples has 5 KB.
pub const MAX_FILE_BYTES: u64 = 256 << 10;
/// Deepest nesting; PaddleServing's keys need five levels.
pub const MAX_DEPTH: usize = 16;
/// Most scalars, lists and tables together, with aliases written out.
pub const MAX_NODES: usize = 10_000;

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true`, `no`, `On` and the like.
    Bool(bool),
    /// Any integer; beyond 64 bits, the nearest.
    Int(i64),
    /// A number with a point.
    Float(f64),
    /// A text.
    Str(String),
    /// A list.
    List(Vec<Node>),
    /// A table, in the file's order; of a key that comes twice the last value.
    Map(Vec<(String, Node)>),
}

impl Value {
    /// The type, as messages call it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a number with a point",
            Self::Str(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a table",
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Line, from 1.
    pub line: usize,
    /// The value.
    pub value: Value,
    /// Levels of nesting in it, a scalar's 1.
    height: usize,
    /// Nodes in it, itself among them.
    count: usize,
}

impl Node {
    /// The entries of a table.
    #[must_use]
    pub fn entries(&self) -> Option<&[(String, Node)]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Str(_)
            | Value::List(_) => None,
        }
    }

    /// A scalar as Python would print it, lists and tables by their size.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.value {
            Value::Null => "null".into(),
            Value::Bool(b) => if *b { "True" } else { "False" }.into(),
            Value::Int(i) => i.to_string(),
            Value::Float(f) => format!("{f:?}"),
            Value::Str(s) => format!("\"{s}\""),
            Value::List(list) if list.len() <= 4 && list.iter().all(|n| n.height == 1) => {
                format!("[{}]", list.iter().map(Self::shown).collect::<Vec<_>>().join(", "))
            }
            Value::List(list) => format!("a list of {}", list.len()),
            Value::Map(entries) => format!("a table of {}", entries.len()),
        }
    }
}

/// What was read, and what the reading passed over.
#[derive(Debug)]
pub struct Document {
    /// The whole.
    pub root: Node,
    /// Keys that came twice: line and name.
    pub twice: Vec<(usize, String)>,
}

/// Reads one document.
///
/// # Errors
/// A sentence with the line: what is not YAML, is beyond a bound, or is of the kinds that no `config.yml` needs: several
/// documents, merge keys, tables as keys, tags of other than YAML's own types.
pub fn read(bytes: &[u8]) -> Result<Document, String> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!(
            "has more than {MAX_FILE_BYTES} bytes; no config.yml of PaddleServing needs as many"
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        format!("is not UTF-8 from byte {} on; PaddleServing reads UTF-8 only", e.valid_up_to())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str(text);
    let mut builder = Builder::default();
    while let Some(event) = parser.next_event() {
        let (event, span) =
            event.map_err(|e| format!("line {}: not YAML: {}", e.marker().line(), e.info()))?;
        let line = span.start.line();
        builder.event(event, line).map_err(|e| format!("line {line}: {e}"))?;
    }
    let root = builder.root.ok_or("is empty")?;
    Ok(Document { root, twice: builder.twice })
}

/// A list or table whose end has not come.
struct Open {
    line: usize,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<(String, Node)>, places: HashMap<String, usize>, key: Option<(usize, String)> },
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
    twice: Vec<(usize, String)>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !is_tag(tag.as_deref(), "str")?;
                if self.wants_key() {
                    return self.key(text.into_owned(), line, plain);
                }
                let value = if plain { resolve(&text) } else { Value::Str(text.into_owned()) };
                self.close(Node { line, value, height: 1, count: 1 }, anchor)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or("an alias of what is not complete")?;
                if self.wants_key() {
                    return Err("an alias cannot be a key".into());
                }
                self.close(Node { line, ..node }, 0)
            }
            Event::SequenceStart(anchor, tag) => {
                is_tag(tag.as_deref(), "seq")?;
                self.start(Open { line, anchor, content: Content::List(Vec::new()) })
            }
            Event::MappingStart(anchor, tag) => {
                is_tag(tag.as_deref(), "map")?;
                let content = Content::Map { entries: Vec::new(), places: HashMap::new(), key: None };
                self.start(Open { line, anchor, content })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { line, anchor, content }) = self.open.pop() else { return Ok(()) };
                let (value, inner): (Value, Vec<(usize, usize)>) = match content {
                    Content::List(list) => {
                        let inner = list.iter().map(|n| (n.height, n.count)).collect();
                        (Value::List(list), inner)
                    }
                    Content::Map { entries, .. } => {
                        let inner = entries.iter().map(|(_, n)| (n.height, n.count)).collect();
                        (Value::Map(entries), inner)
                    }
                };
                let height = 1 + inner.iter().map(|(h, _)| *h).max().unwrap_or(0);
                let count = 1 + inner.iter().map(|(_, c)| *c).sum::<usize>();
                // What is in it has been counted already.
                self.nodes -= count - 1;
                self.close(Node { line, value, height, count }, anchor)
            }
            Event::DocumentStart(_) if self.root.is_some() => {
                Err("a second document begins; PaddleServing reads one".into())
            }
            Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::StreamStart
            | Event::StreamEnd
            | Event::Nothing => Ok(()),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map { key: None, .. }, .. }))
    }

    fn start(&mut self, open: Open) -> Result<(), String> {
        if self.wants_key() {
            return Err("a list or table cannot be a key".into());
        }
        if self.open.len() + 1 > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.open.push(open);
        Ok(())
    }

    fn key(&mut self, text: String, line: usize, plain: bool) -> Result<(), String> {
        if plain && text == "<<" {
            return Err("merge keys (<<) are not read here; write the keys out".into());
        }
        if let Some(Open { content: Content::Map { key, .. }, .. }) = self.open.last_mut() {
            *key = Some((line, text));
        }
        Ok(())
    }

    /// Puts a whole node where it belongs.
    fn close(&mut self, mut node: Node, anchor: usize) -> Result<(), String> {
        self.nodes += node.count;
        if self.nodes > MAX_NODES {
            return Err(format!("more than {MAX_NODES} values, with aliases written out"));
        }
        if self.open.len() + node.height > MAX_DEPTH + 1 {
            return Err(format!("nested deeper than {MAX_DEPTH} levels, with aliases written out"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|o| &mut o.content) {
            None => self.root = Some(node),
            Some(Content::List(list)) => list.push(node),
            Some(Content::Map { entries, places, key }) => {
                let (line, name) = key.take().ok_or("a value without a key")?;
                node.line = line;
                match places.get(&name) {
                    Some(place) => {
                        self.twice.push((line, name));
                        entries[*place].1 = node;
                    }
                    None => {
                        places.insert(name.clone(), entries.len());
                        entries.push((name, node));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether the tag is YAML's own `name`; an error for tags of anything but YAML's own types.
fn is_tag(tag: Option<&Tag>, name: &str) -> Result<bool, String> {
    let Some(tag) = tag else { return Ok(false) };
    let known = ["str", "int", "float", "bool", "null", "seq", "map"];
    // `!` alone changes nothing for PyYAML.
    if tag.handle.is_empty() && tag.suffix == "!" {
        return Ok(false);
    }
    if !tag.is_yaml_core_schema() || !known.contains(&tag.suffix.as_str()) {
        return Err(format!("the tag {}{} is not read here", tag.handle, tag.suffix));
    }
    Ok(tag.suffix == name)
}

/// What a plain scalar is in YAML 1.1, by the expressions of PyYAML's `resolver.py`.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (-1.0, &text[1..]),
        Some(b'+') => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if matches!(digits, ".inf" | ".Inf" | ".INF") {
        return Value::Float(sign * f64::INFINITY);
    }
    integer(digits).map(|i| if sign < 0.0 { i.saturating_neg() } else { i }).map_or_else(
        || float(digits).map_or_else(|| Value::Str(text.to_owned()), |f| Value::Float(sign * f)),
        Value::Int,
    )
}

/// Digits without their sign; underscores count for nothing, a leading 0 makes octal, colons base 60.
fn integer(text: &str) -> Option<i64> {
    let all = |s: &str, allowed: fn(char) -> bool| !s.is_empty() && s.chars().all(|c| allowed(c) || c == '_');
    let radix = |s: &str, radix| {
        let digits: String = s.chars().filter(|c| *c != '_').collect();
        if digits.is_empty() { None } else { Some(i64::from_str_radix(&digits, radix).unwrap_or(i64::MAX)) }
    };
    if let Some(hex) = text.strip_prefix("0x") {
        return all(hex, |c| c.is_ascii_hexdigit()).then(|| radix(hex, 16))?;
    }
    if let Some(binary) = text.strip_prefix("0b") {
        return all(binary, |c| matches!(c, '0' | '1')).then(|| radix(binary, 2))?;
    }
    if text == "0" {
        return Some(0);
    }
    if let Some(octal) = text.strip_prefix('0') {
        return all(octal, |c| matches!(c, '0'..='7')).then(|| radix(octal, 8))?;
    }
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Some((first, rest)) = text.split_once(':') {
        let mut value = all(first, |c| c.is_ascii_digit()).then(|| radix(first, 10))??;
        for part in rest.split(':') {
            let digit = part.parse::<i64>().ok().filter(|d| part.len() <= 2 && (0..60).contains(d))?;
            value = value.saturating_mul(60).saturating_add(digit);
        }
        return Some(value);
    }
    all(text, |c| c.is_ascii_digit()).then(|| radix(text, 10))?
}

/// A number with a point; an exponent needs the point and its sign.
fn float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e)),
        None => (text, None),
    };
    let (whole, part) = mantissa.split_once('.')?;
    let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit() || c == '_');
    let signed = |e: &str| {
        let digits = e.strip_prefix(['-', '+']);
        digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
    };
    let begins = if whole.is_empty() { part } else { whole }.starts_with(|c: char| c.is_ascii_digit());
    if !begins || !digits(whole) || !digits(part) || !exponent.is_none_or(signed) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        let Document { root, .. } =
            read(format!("k: {text}\n").as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"));
        root.entries().unwrap()[0].1.value.clone()
    }

    #[test]
    fn scalars_are_those_of_pyyaml() {
        // What `yaml.load(text, yaml.FullLoader)` of PyYAML 6.0.3 gives.
        let text = |s: &str| Value::Str(s.to_owned());
        let cases = [
            ("9998", Value::Int(9998)),
            ("-1", Value::Int(-1)),
            ("+7", Value::Int(7)),
            ("1_000", Value::Int(1000)),
            ("010", Value::Int(8)),
            ("0x1F", Value::Int(31)),
            ("0b101", Value::Int(5)),
            ("1:30", Value::Int(90)),
            ("08", text("08")),
            ("1:60", text("1:60")),
            ("99999999999999999999", Value::Int(i64::MAX)),
            ("1.5", Value::Float(1.5)),
            (".5", Value::Float(0.5)),
            ("1.", Value::Float(1.0)),
            ("1.0e+3", Value::Float(1000.0)),
            ("1e3", text("1e3")),
            ("1.0e3", text("1.0e3")),
            ("-.inf", Value::Float(f64::NEG_INFINITY)),
            ("True", Value::Bool(true)),
            ("off", Value::Bool(false)),
            ("yEs", text("yEs")),
            ("y", text("y")),
            ("", Value::Null),
            ("~", Value::Null),
            ("\"0\"", text("0")),
            ("'True'", text("True")),
            ("!!str 5", text("5")),
            ("! 5", Value::Int(5)),
            ("!!int 5", Value::Int(5)),
            ("./dir", text("./dir")),
            ("0,1", text("0,1")),
            ("1.2.3", text("1.2.3")),
            ("_1", text("_1")),
            ("0x", text("0x")),
        ];
        for (written, want) in cases {
            assert_eq!(value(written), want, "{written}");
        }
    }

    #[test]
    fn lines_anchors_and_keys_that_come_twice() {
        let text = "\u{feff}a: &x\n  - 1\n  - 2\nb: *x\nc: 1\nc: 2\n";
        let Document { root, twice } = read(text.as_bytes()).unwrap();
        let entries = root.entries().unwrap();
        let shown: Vec<(usize, &str, String)> =
            entries.iter().map(|(k, n)| (n.line, k.as_str(), n.shown())).collect();
        let want = [(1, "a", "[1, 2]".to_owned()), (4, "b", "[1, 2]".to_owned()), (6, "c", "2".to_owned())];
        assert_eq!(shown, want);
        assert_eq!(twice, [(6, "c".to_owned())]);
    }

    #[test]
    fn what_is_hostile_is_refused_with_its_bound() {
        let bomb = (1..20).fold("a0: &a0 [1, 2, 3, 4]\n".to_owned(), |text, i| {
            let p = i - 1;
            text + &format!("a{i}: &a{i} [*a{p}, *a{p}, *a{p}, *a{p}]\n")
        });
        let tower = (1..40)
            .fold("a0: &a0 [1]\n".to_owned(), |text, i| text + &format!("a{i}: &a{i} [*a{}]\n", i - 1));
        let size = MAX_FILE_BYTES as usize;
        let cases: [(&str, Vec<u8>, &str); 19] = [
            ("size", vec![b'a'; 10 << 20], "has more than 262144 bytes"),
            ("not UTF-8", b"rpc_port: \xff\n".to_vec(), "not UTF-8 from byte 10"),
            ("utf-16", b"\xff\xfer\0p\0c\0".to_vec(), "not UTF-8 from byte 0"),
            ("alias bomb", bomb.into_bytes(), "more than 10000 values"),
            ("alias tower", tower.into_bytes(), "deeper than 16 levels"),
            ("flow depth", [&b"[".repeat(20)[..], &b"]".repeat(20)].concat(), "deeper than 16 levels"),
            ("flow depth of a scanner", vec![b'['; size], "recursion limit"),
            ("flow tables", b"{a: ".repeat(size / 4), "recursion limit"),
            ("block depth", b"- ".repeat(size / 2), "deeper than 16 levels"),
            ("question marks", b"? ".repeat(size / 2), "cannot be a key"),
            ("many values", b"- 1\n".repeat(size / 4), "more than 10000 values"),
            ("own alias", b"a: &a [*a]\n".to_vec(), "alias"),
            ("unknown alias", b"a: *nothing\n".to_vec(), "not YAML"),
            ("merge key", b"a: &a {b: 1}\nc:\n  <<: *a\n".to_vec(), "line 3: merge keys"),
            ("python tag", b"a: !!python/object/apply:os.system [\"id\"]\n".to_vec(), "tag"),
            ("two documents", b"a: 1\n---\nb: 1\n".to_vec(), "a second document"),
            ("empty", b"# nothing\n".to_vec(), "is empty"),
            ("tab", b"a:\n\t- 1\n".to_vec(), "not YAML"),
            ("open quote", [&b"a: \""[..], &vec![b'x'; size - 4]].concat(), "not YAML"),
        ];
        for (name, bytes, want) in cases {
            let error = read(&bytes).map(|d| d.root.shown()).expect_err(name);
            assert!(error.contains(want), "{name}: {error}");
            assert!(error.len() < 300, "{name}: {error}");
        }
        // Nothing to refuse, and nothing to take long over.
        for bytes in
            [b"a: b\n".repeat(9_000), vec![b'a'; size], [b"k: ".to_vec(), vec![b' '; size - 3]].concat()]
        {
            read(&bytes).unwrap();
        }
    }
}
