//! `multipart/form-data` bodies that are in memory already: each part is a slice of the body, not a copy.
//!
//! Not `multer`: it reads a stream, and copies every byte into a buffer of its own to find the boundaries.
//!
//! Sources: RFC 2046 section 5.1 (boundaries), RFC 7578 (the header fields).

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem::Finder;

use crate::error::{ErrorKind, InferError};

/// Bytes of header fields one part may have.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// Header fields one part may have.
const MAX_HEADERS: usize = 16;
/// RFC 2046: a boundary has at most 70 characters.
const MAX_BOUNDARY: usize = 70;

/// One part of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The form field.
    pub name: String,
    /// The file's name; a part without one is a plain field.
    pub filename: Option<String>,
    /// What the client says it is.
    pub content_type: Option<String>,
    /// The content, which shares the body's memory.
    pub data: Bytes,
}

/// The boundary of a `multipart/form-data` content type.
///
/// **Errors:** `UnsupportedMediaType` for another type, `MalformedMultipart` for a boundary that is missing,
/// empty or over 70 characters.
pub fn boundary(content_type: &str) -> Result<String, InferError> {
    let (media_type, _) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !media_type.trim().eq_ignore_ascii_case("multipart/form-data") {
        let message = format!("Content-Type {content_type:?}: multipart/form-data expected");
        return Err(InferError::new(ErrorKind::UnsupportedMediaType, message));
    }
    match parameter(content_type, "boundary") {
        Some(boundary) if (1..=MAX_BOUNDARY).contains(&boundary.len()) => Ok(boundary.into_owned()),
        Some(_) => {
            Err(malformed(format!("Content-Type {content_type:?}: boundary of 1 to 70 characters expected")))
        }
        None => Err(malformed(format!("Content-Type {content_type:?} has no boundary"))),
    }
}

/// The parts of `body`, in order.
///
/// **Errors:** `MalformedMultipart`, naming the part, for a boundary that is missing, header fields that do not
/// parse or take over 8 KiB, a part without a name and more than `max_parts` parts.
pub fn parse(body: &Bytes, boundary: &str, max_parts: usize) -> Result<Vec<Part>, InferError> {
    let delimiter = format!("\r\n--{boundary}");
    let delimiter = Finder::new(delimiter.as_bytes());
    let bytes: &[u8] = body;
    // The first boundary may open the body, where no line ends before it.
    let opening = &delimiter.needle()[2..];
    let mut at = if bytes.starts_with(opening) {
        opening.len()
    } else {
        let found = delimiter.find(bytes);
        found.ok_or_else(|| malformed(format!("no boundary --{boundary} in the body")))?
            + delimiter.needle().len()
    };
    let mut parts = Vec::new();
    loop {
        // What follows a boundary: "--" behind the last part, else the end of the line.
        let rest = &bytes[at..];
        if rest.starts_with(b"--") {
            return Ok(parts);
        }
        let number = parts.len() + 1;
        let fail = |what: &str| malformed(format!("part {number}: {what}"));
        let blanks = rest.iter().take_while(|&&b| b == b' ' || b == b'\t').count();
        if !rest[blanks..].starts_with(b"\r\n") {
            return Err(fail("the line of its boundary goes on"));
        }
        if parts.len() == max_parts {
            return Err(malformed(format!("more than {max_parts} parts")));
        }
        // The line end stays: with no header fields at all, it is half of the empty line.
        let head = at + blanks;
        let window = &bytes[head..bytes.len().min(head + MAX_HEADER_BYTES)];
        let head_len = memchr::memmem::find(window, b"\r\n\r\n").ok_or_else(|| {
            if window.len() < MAX_HEADER_BYTES {
                fail("its header fields have no end")
            } else {
                fail("over 8 KiB of header fields")
            }
        })?;
        let start = head + head_len + 4;
        let mut part = head_fields(&bytes[head + 2..start]).map_err(|what| fail(&what))?;
        // A part without content ends on the empty line itself.
        let from = start - 2;
        let end = delimiter.find(&bytes[from..]).map(|len| from + len);
        let end = end.ok_or_else(|| fail("no boundary behind it"))?;
        part.data = body.slice(start..end.max(start));
        parts.push(part);
        at = end + delimiter.needle().len();
    }
}

/// A part without data from its header fields, the empty line behind them included.
fn head_fields(head: &[u8]) -> Result<Part, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let headers = match httparse::parse_headers(head, &mut headers) {
        Ok(httparse::Status::Complete((_, headers))) => headers,
        Ok(httparse::Status::Partial) => return Err("its header fields have no end".to_owned()),
        Err(error) => return Err(format!("header fields: {error}")),
    };
    let value = |name: &str| {
        headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| String::from_utf8_lossy(h.value))
    };
    let disposition = value("content-disposition").ok_or("no Content-Disposition")?;
    let name = parameter(&disposition, "name").ok_or("no name in its Content-Disposition")?;
    Ok(Part {
        name: name.into_owned(),
        filename: parameter(&disposition, "filename").map(Cow::into_owned),
        content_type: value("content-type").map(|v| v.trim().to_owned()),
        data: Bytes::new(),
    })
}

/// The parameter `name` of a header field `value; a=token; b="quoted"`.
fn parameter<'h>(header: &'h str, name: &str) -> Option<Cow<'h, str>> {
    let mut rest = &header[header.find(';')?..];
    while let Some(parameters) = rest.trim_start().strip_prefix(';') {
        let (key, value) = parameters.split_once('=')?;
        let value = value.trim_start();
        let (text, behind) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = value.find(';').unwrap_or(value.len());
                (Cow::Borrowed(value[..end].trim_end()), &value[end..])
            }
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(text);
        }
        rest = behind;
    }
    None
}

/// The text up to the closing quote, and what is behind that.
fn unquote(quoted: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut text = Cow::Borrowed("");
    let mut from = 0;
    let mut bytes = quoted.bytes().enumerate();
    while let Some((i, byte)) = bytes.next() {
        match byte {
            b'"' if text.is_empty() => return Some((Cow::Borrowed(&quoted[from..i]), &quoted[i + 1..])),
            b'"' => return Some((text + &quoted[from..i], &quoted[i + 1..])),
            // Only these are escapes: a backslash is also how some clients send a path.
            b'\\' if quoted[i + 1..].starts_with(['"', '\\']) => {
                text += &quoted[from..i];
                from = i + 1;
                bytes.next();
            }
            _ => {}
        }
    }
    None
}

fn malformed(message: String) -> InferError {
    InferError::new(ErrorKind::MalformedMultipart, format!("multipart: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Bytes {
        Bytes::from(text.replace('\n', "\r\n"))
    }

    #[test]
    fn reads_what_curl_and_browsers_send() {
        let body = body(
            "--X1\nContent-Disposition: form-data; name=\"image\"; filename=\"a.jpg\"\nContent-Type: image/jpeg\n\n\
             \u{1}--X\r--X1\n\n\n--X1\ncontent-disposition: form-data; name=model\n\narcface\n--X1 \t\n\
             Content-Disposition: form-data; name=\"e\"; filename=\"\"\n\n\n--X1--\nepilogue",
        );
        let parts = parse(&body, "X1", 3).unwrap();
        let part = |name: &str, filename: Option<&str>, content_type: Option<&str>, data: &str| Part {
            name: name.into(),
            filename: filename.map(Into::into),
            content_type: content_type.map(Into::into),
            data: Bytes::from(data.to_owned()),
        };
        assert_eq!(
            parts,
            [
                part("image", Some("a.jpg"), Some("image/jpeg"), "\u{1}--X\r--X1\r\n\r\n"),
                part("model", None, None, "arcface"),
                part("e", Some(""), None, ""),
            ]
        );
        // The parts share the body's memory.
        let range = body.as_ptr_range();
        assert!(parts.iter().all(|p| range.contains(&p.data.as_ptr())));
    }

    #[test]
    fn takes_a_preamble_and_no_parts() {
        assert_eq!(parse(&body("--X--"), "X", 1).unwrap(), []);
        // not even an empty line's worth of content
        let empty = body("--X\nContent-Disposition: form-data; name=a\n\n--X--");
        assert_eq!(parse(&empty, "X", 1).unwrap()[0].data, "");
        let body = body("preamble\n--X\nContent-Disposition: form-data; name=a\n\n1\n--X--\n");
        assert_eq!(parse(&body, "X", 1).unwrap().len(), 1);
    }

    #[test]
    fn says_what_is_malformed() {
        let long = "--X\nA: ".to_owned() + &"a".repeat(9000);
        let many = "--X\n".to_owned() + &"A: 1\n".repeat(17) + "\n\n--X--";
        let first = "--X\nContent-Disposition: form-data; name=a\n\n1\n";
        for (text, message) in [
            ("", "no boundary --X in the body"),
            ("--Y\n", "no boundary --X in the body"),
            ("--X", "part 1: the line of its boundary goes on"),
            ("--Xy\n", "part 1: the line of its boundary goes on"),
            ("--X\nA: b\n", "part 1: its header fields have no end"),
            ("--X\n\ndata\n--X--", "part 1: no Content-Disposition"),
            ("--X\nContent-Disposition: form-data\n\n\n--X--", "part 1: no name in its Content-Disposition"),
            (
                "--X\nContent-Disposition: form-data; name=\"a\n\n\n--X--",
                "part 1: no name in its Content-Disposition",
            ),
            ("--X\na b: c\n\n\n--X--", "part 1: header fields: invalid header name"),
            (&long, "part 1: over 8 KiB of header fields"),
            (&many, "part 1: header fields: too many headers"),
            (first, "part 1: no boundary behind it"),
            (&format!("{first}--X\nA: b\n"), "part 2: its header fields have no end"),
            (&format!("{first}{first}{first}--X--"), "more than 2 parts"),
        ] {
            let error = parse(&body(text), "X", 2).unwrap_err();
            assert_eq!(error.kind, ErrorKind::MalformedMultipart);
            assert_eq!(error.message, format!("multipart: {message}"), "{text:?}");
        }
    }

    #[test]
    fn finds_the_boundary() {
        for (content_type, boundary) in [
            ("multipart/form-data; boundary=abc", Ok("abc")),
            ("Multipart/Form-Data;charset=utf-8 ; BOUNDARY=\"a;b c\"", Ok("a;b c")),
            ("multipart/form-data; boundary=abc; x=y", Ok("abc")),
            ("multipart/form-data", Err(ErrorKind::MalformedMultipart)),
            ("multipart/form-data; boundary=", Err(ErrorKind::MalformedMultipart)),
            ("multipart/form-data; boundary=\"abc", Err(ErrorKind::MalformedMultipart)),
            (
                &format!("multipart/form-data; boundary={}", "a".repeat(71)),
                Err(ErrorKind::MalformedMultipart),
            ),
            ("multipart/mixed; boundary=abc", Err(ErrorKind::UnsupportedMediaType)),
            ("image/jpeg", Err(ErrorKind::UnsupportedMediaType)),
        ] {
            let got = super::boundary(content_type).map_err(|e| e.kind);
            assert_eq!(got.as_deref(), boundary.as_ref().map(|b| &**b), "{content_type}");
        }
    }

    #[test]
    fn unquotes_parameters() {
        for (header, name) in [
            (r#"form-data; name="a\"b\\c""#, Some(r#"a"b\c"#)),
            (r#"form-data; name="C:\dir\a.jpg""#, Some(r"C:\dir\a.jpg")),
            (r#"form-data; filename="name=x; name=y"; name=z"#, Some("z")),
            (r#"form-data; name="日本""#, Some("日本")),
            (r#"form-data; filename*=UTF-8''x; name="""#, Some("")),
            ("form-data; name", None),
            ("form-data", None),
        ] {
            assert_eq!(parameter(header, "name").as_deref(), name, "{header}");
        }
    }

    #[test]
    fn survives_mutations() {
        let valid = body(
            "--X1\nContent-Disposition: form-data; name=\"i\\\"mage\"; filename=\"é.jpg\"\n\ndata\n--X1\n\
             Content-Disposition: form-data; name=b\nContent-Type: text/plain\n\n\n--X1--\n",
        );
        crate::server::mutations(&valid, 20_000, |mutated| {
            let mutated = Bytes::copy_from_slice(mutated);
            if let Ok(parts) = parse(&mutated, "X1", 4) {
                assert!(parts.len() <= 4);
            }
            let _ = super::boundary(&String::from_utf8_lossy(&mutated));
        });
    }
}
