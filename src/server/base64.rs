//! Base64 as the protocols carry images: the standard alphabet with padding, and white space where a line was
//! folded. Anything else is an error that says where.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use crate::error::{ErrorKind, InferError};

/// Python's `b64decode` does not look at the bits that the last symbol has over, and neither do we.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The bytes that `text` encodes. White space counts for nothing but is slower: it takes a copy.
///
/// **Errors:** `BadBase64` with the offset of the first byte that has no place there.
pub fn decode(text: &str) -> Result<Vec<u8>, InferError> {
    if let Ok(bytes) = ENGINE.decode(text) {
        return Ok(bytes);
    }
    let symbols = |text: &str| text.bytes().filter(|b| !b.is_ascii_whitespace()).collect::<Vec<_>>();
    ENGINE.decode(symbols(text)).map_err(|_| explain(text))
}

/// What is wrong with a text that does not decode.
fn explain(text: &str) -> InferError {
    let fail = |message: String| InferError::new(ErrorKind::BadBase64, message);
    let (mut symbols, mut padding) = (0_usize, 0_usize);
    for (offset, character) in text.char_indices().filter(|(_, c)| !c.is_ascii_whitespace()) {
        match character {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '+' | '/' if padding == 0 => symbols += 1,
            '=' if padding < 2 && (symbols + padding) % 4 >= 2 => padding += 1,
            '=' => return fail(format!("base64: padding at byte {offset}, where none belongs")),
            'A'..='Z' | 'a'..='z' | '0'..='9' | '+' | '/' => {
                return fail(format!("base64: {character:?} at byte {offset}, behind the padding"));
            }
            _ => {
                return fail(format!(
                    "base64: {character:?} at byte {offset} is not in the standard alphabet"
                ));
            }
        }
    }
    let missing = match (symbols + padding) % 4 {
        0 => "decodes to nothing",
        1 => "lacks a symbol, or has one too many",
        _ => "lacks its padding",
    };
    fail(format!("base64: the text ends at byte {} and {missing}", text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_python_decodes() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("YQ==", b"a"),
            ("YWI=", b"ab"),
            ("YWJj", b"abc"),
            ("YWJj\nZGVm\r\n", b"abcdef"),
            (" Y W\tI = ", b"ab"),
            ("YR==", b"a"),
            ("+/+/", b"\xfb\xff\xbf"),
        ] {
            assert_eq!(decode(text).unwrap(), bytes, "{text:?}");
        }
    }

    #[test]
    fn says_where_it_fails() {
        for (text, message) in [
            ("YW-j", "base64: '-' at byte 2 is not in the standard alphabet"),
            ("data:image/png;base64,YWJj", "base64: ':' at byte 4 is not in the standard alphabet"),
            ("YW\nJj\n_", "base64: '_' at byte 6 is not in the standard alphabet"),
            ("YWé=", "base64: 'é' at byte 2 is not in the standard alphabet"),
            ("YQ", "base64: the text ends at byte 2 and lacks its padding"),
            ("YQ=", "base64: the text ends at byte 3 and lacks its padding"),
            ("YWJjZ", "base64: the text ends at byte 5 and lacks a symbol, or has one too many"),
            ("YQ===", "base64: padding at byte 4, where none belongs"),
            ("YWJj=", "base64: padding at byte 4, where none belongs"),
            ("=", "base64: padding at byte 0, where none belongs"),
            ("YQ==YQ==", "base64: 'Y' at byte 4, behind the padding"),
            ("YQ=a", "base64: 'a' at byte 3, behind the padding"),
        ] {
            let error = decode(text).unwrap_err();
            assert_eq!((error.kind, error.message.as_str()), (ErrorKind::BadBase64, message), "{text:?}");
        }
    }
}
