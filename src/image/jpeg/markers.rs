//! The one walk over a JPEG's markers, and what decoding needs of those before the first scan.

use crate::image::exif::{Directory, Orientation};

// Second bytes of the markers that matter here (ITU-T T.81, table B.1).
pub(super) const TEM: u8 = 0x01;
pub(super) const SOF0: u8 = 0xc0;
pub(super) const DHT: u8 = 0xc4;
pub(super) const JPG: u8 = 0xc8;
pub(super) const DAC: u8 = 0xcc;
pub(super) const SOF15: u8 = 0xcf;
pub(super) const RST0: u8 = 0xd0;
pub(super) const RST7: u8 = 0xd7;
pub(super) const SOI: u8 = 0xd8;
pub(super) const EOI: u8 = 0xd9;
pub(super) const SOS: u8 = 0xda;
pub(super) const DQT: u8 = 0xdb;
pub(super) const DRI: u8 = 0xdd;
pub(super) const APP0: u8 = 0xe0;
pub(super) const APP1: u8 = 0xe1;
pub(super) const APP14: u8 = 0xee;
pub(super) const APP15: u8 = 0xef;
pub(super) const COM: u8 = 0xfe;

/// One marker and, where it has one, its payload.
pub(super) struct Segment<'a> {
    pub(super) marker: u8,
    pub(super) payload: &'a [u8],
    /// What lies between the segment before and this one: entropy-coded data, fill bytes, or stray ones.
    pub(super) gap: &'a [u8],
}

/// Where the next marker begins: at a 0xff that is neither a stuffed nor a fill byte.
fn next_marker(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr(0xff, bytes.get(at..)?)?;
        match bytes.get(at + 1)? {
            0 => at += 2,
            0xff => at += 1,
            _ => return Some(at),
        }
    }
}

/// Walks the markers of a JPEG, over the entropy-coded data as well, until `visit` answers `false` or the
/// end-of-image marker. `false` if the bytes run out before that. Bytes between segments that belong to none
/// are passed over, as libjpeg does.
pub(super) fn walk<'a>(encoded: &'a [u8], mut visit: impl FnMut(&Segment<'a>) -> bool) -> bool {
    let mut rest = encoded;
    loop {
        let Some(found) = next_marker(rest) else { return false };
        let (gap, marker) = (&rest[..found], rest[found + 1]);
        rest = &rest[found + 2..];
        let mut payload = &[][..];
        if !matches!(marker, TEM | RST0..=RST7 | SOI | EOI) {
            let Some(&length) = rest.first_chunk::<2>() else { return false };
            let end = usize::from(u16::from_be_bytes(length)).max(2);
            let Some(whole) = rest.get(..end) else { return false };
            payload = &whole[2..];
            rest = &rest[end..];
        }
        if !visit(&Segment { marker, payload, gap }) || marker == EOI {
            return true;
        }
    }
}

/// What the CPU decoder reads of the segments before the first scan.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Width and height of the frame.
    pub(super) size: Option<(u32, u32)>,
    pub(super) orientation: Orientation,
    app1_seen: bool,
}

impl Head {
    pub(super) fn read(encoded: &[u8]) -> Self {
        let mut head = Self::default();
        walk(encoded, |segment| {
            head.visit(segment);
            segment.marker != SOS
        });
        head
    }

    /// Takes note of a segment before the first scan.
    pub(super) fn visit(&mut self, segment: &Segment<'_>) {
        match (segment.marker, segment.payload) {
            (DHT | JPG | DAC, _) => {}
            (SOF0..=SOF15, [_, h1, h0, w1, w0, ..]) => {
                let side = |high, low| u32::from(u16::from_be_bytes([high, low]));
                self.size = Some((side(*w1, *w0), side(*h1, *h0)));
            }
            // Only the first block of this marker counts, EXIF or (then there is no EXIF) XMP: OpenCV 4.12 looks
            // no further.
            (APP1, payload) if !self.app1_seen => {
                self.app1_seen = true;
                let exif = payload.strip_prefix(b"Exif\0").and_then(|p| Directory::read(p.get(1..)?));
                self.orientation = exif.map(|d| d.orientation()).unwrap_or_default();
            }
            _ => {}
        }
    }
}

/// Whether the file ends before its end-of-image marker.
pub(super) fn ends_early(encoded: &[u8]) -> bool {
    !walk(encoded, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_sees_segments_and_the_end() {
        let whole = b"\xff\xd8\xff\xe1\0\x04ab\xff\xff\xda\0\x02\x01\xff\0\x02\xff\xd0\x03\xff\xd9tail";
        for (bytes, markers, complete) in [
            (&whole[..], &[SOI, APP1, SOS, RST0, EOI][..], true),
            (&whole[..whole.len() - 5], &[SOI, APP1, SOS, RST0], false),
            (&whole[..14], &[SOI, APP1, SOS], false),
            (&whole[..7], &[SOI], false),
            (b"\xff\xd8garbage\xff\0\xff\xd9", &[SOI, EOI], true),
            (b"\xff", &[], false),
            (b"\xff\0", &[], false),
            (b"\xff\xff\xff", &[], false),
            (b"", &[], false),
        ] {
            let mut seen = Vec::new();
            let ended = walk(bytes, |s| {
                seen.push(s.marker);
                true
            });
            assert_eq!((&seen[..], ended), (markers, complete), "{bytes:x?}");
        }
    }

    #[test]
    fn the_walk_shows_what_lies_between() {
        let mut gaps = Vec::new();
        walk(b"\xff\xd8\xff\xff\xda\0\x02\x01\xff\0\x02\xff\xff\xd0\x03\xff\xd9", |s| {
            gaps.push(s.gap.to_vec());
            true
        });
        assert_eq!(gaps, [&b""[..], b"\xff", b"\x01\xff\0\x02\xff", b"\x03"]);
    }
}
