//! The EXIF orientation, and the TIFF directory it is kept in: JPEG, PNG and TIFF files carry the same
//! structure. Nothing else of EXIF is read.

/// How stored pixels are turned to be seen upright: EXIF tag 0x0112, values 1 to 8.
///
/// **Source:** Exif 2.32 (CIPA DC-008), 4.6.4, `Orientation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Orientation {
    /// 1: as stored.
    #[default]
    Upright,
    /// 2: left and right change places.
    FlipHorizontal,
    /// 3: half a turn.
    Rotate180,
    /// 4: top and bottom change places.
    FlipVertical,
    /// 5: rows become columns.
    Transpose,
    /// 6: a quarter turn clockwise.
    Rotate90,
    /// 7: rows become columns, then half a turn.
    Transverse,
    /// 8: a quarter turn counter-clockwise.
    Rotate270,
}

impl Orientation {
    /// The orientation of an EXIF value; upright for a value that EXIF does not define, as in OpenCV.
    #[must_use]
    pub const fn from_exif(value: u16) -> Self {
        match value {
            2 => Self::FlipHorizontal,
            3 => Self::Rotate180,
            4 => Self::FlipVertical,
            5 => Self::Transpose,
            6 => Self::Rotate90,
            7 => Self::Transverse,
            8 => Self::Rotate270,
            _ => Self::Upright,
        }
    }

    /// Whether width and height change places.
    #[must_use]
    pub const fn transposes(self) -> bool {
        match self {
            Self::Upright | Self::FlipHorizontal | Self::Rotate180 | Self::FlipVertical => false,
            Self::Transpose | Self::Rotate90 | Self::Transverse | Self::Rotate270 => true,
        }
    }

    /// Whether walking right in the upright image walks left in the stored one (up, if it transposes).
    #[must_use]
    pub(crate) const fn mirrors_x(self) -> bool {
        match self {
            Self::FlipHorizontal | Self::Rotate180 | Self::Rotate90 | Self::Transverse => true,
            Self::Upright | Self::FlipVertical | Self::Transpose | Self::Rotate270 => false,
        }
    }

    /// Whether walking down in the upright image walks up in the stored one (left, if it transposes).
    #[must_use]
    pub(crate) const fn mirrors_y(self) -> bool {
        match self {
            Self::Rotate180 | Self::FlipVertical | Self::Transverse | Self::Rotate270 => true,
            Self::Upright | Self::FlipHorizontal | Self::Transpose | Self::Rotate90 => false,
        }
    }
}

/// EXIF and TIFF tag of the orientation.
const ORIENTATION: u16 = 0x0112;
/// TIFF tag that says what the fourth sample of a pixel is.
const EXTRA_SAMPLES: u16 = 0x0152;
/// TIFF field type of a 16-bit unsigned number.
const SHORT: u16 = 3;

/// The first directory (IFD0) of a TIFF structure: a whole TIFF file, or the payload of an EXIF block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory<'a> {
    entries: &'a [u8],
    big_endian: bool,
}

impl<'a> Directory<'a> {
    /// Finds the directory; `None` if `tiff` is not a TIFF structure or ends before it.
    pub(super) fn read(tiff: &'a [u8]) -> Option<Self> {
        let big_endian = match tiff.first_chunk::<4>()? {
            b"II*\0" => false,
            b"MM\0*" => true,
            _ => return None,
        };
        let offset = u32_at(tiff, 4, big_endian)? as usize;
        let count = usize::from(u16_at(tiff, offset, big_endian)?);
        let start = offset.checked_add(2)?;
        // A directory that runs past the end still has the entries that are there.
        let end = start.checked_add(count * 12)?.min(tiff.len());
        Some(Self { entries: tiff.get(start..end)?, big_endian })
    }

    /// The orientation it names; upright if it names none.
    pub(super) fn orientation(&self) -> Orientation {
        self.short(ORIENTATION).map(Orientation::from_exif).unwrap_or_default()
    }

    /// Whether colours are stored without being multiplied by the alpha sample (`ExtraSamples` is not 1).
    pub(super) fn alpha_is_unassociated(&self) -> bool {
        self.short(EXTRA_SAMPLES) != Some(1)
    }

    /// The first value of a SHORT field. Up to two of them are stored in the entry itself.
    fn short(&self, tag: u16) -> Option<u16> {
        let entry = self.entries.chunks_exact(12).find(|e| u16_at(e, 0, self.big_endian) == Some(tag))?;
        (u16_at(entry, 2, self.big_endian)? == SHORT).then(|| u16_at(entry, 8, self.big_endian))?
    }
}

fn u16_at(bytes: &[u8], offset: usize, big_endian: bool) -> Option<u16> {
    let &value = bytes.get(offset..)?.first_chunk::<2>()?;
    Some(if big_endian { u16::from_be_bytes(value) } else { u16::from_le_bytes(value) })
}

fn u32_at(bytes: &[u8], offset: usize, big_endian: bool) -> Option<u32> {
    let &value = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(if big_endian { u32::from_be_bytes(value) } else { u32::from_le_bytes(value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exif(big_endian: bool, field_type: u16, value: u16) -> Vec<u8> {
        let two = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let four = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let mut out = if big_endian { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
        out.extend(four(8));
        out.extend(two(2));
        for (tag, kind, value) in [(0x010f, 2, 7), (ORIENTATION, field_type, value)] {
            out.extend(two(tag));
            out.extend(two(kind));
            out.extend(four(1));
            out.extend(two(value));
            out.extend([0, 0]);
        }
        out
    }

    #[test]
    fn orientation_is_read_in_both_byte_orders() {
        for big_endian in [false, true] {
            for (value, expected) in [
                (0, Orientation::Upright),
                (1, Orientation::Upright),
                (3, Orientation::Rotate180),
                (6, Orientation::Rotate90),
                (8, Orientation::Rotate270),
                (9, Orientation::Upright),
            ] {
                let bytes = exif(big_endian, SHORT, value);
                let got = Directory::read(&bytes).unwrap().orientation();
                assert_eq!(got, expected, "value {value}, big endian {big_endian}");
            }
        }
    }

    #[test]
    fn broken_directories_have_no_orientation() {
        let whole = exif(false, SHORT, 6);
        for end in 0..whole.len() {
            let got = Directory::read(&whole[..end]).map(|d| d.orientation()).unwrap_or_default();
            assert_eq!(got, Orientation::Upright, "cut at {end}");
        }
        let wrong_type = exif(true, 4, 6);
        assert_eq!(Directory::read(&wrong_type).unwrap().orientation(), Orientation::Upright);
        assert!(Directory::read(b"II*\0\xff\xff\xff\xff").is_none());
    }

    #[test]
    fn a_turn_is_a_transpose_and_mirrors() {
        // The stored 2x3 image, and what each value makes of it, by definition in the EXIF standard.
        let stored = [["a", "b"], ["c", "d"], ["e", "f"]];
        for (value, upright) in [
            (1, "ab/cd/ef"),
            (2, "ba/dc/fe"),
            (3, "fe/dc/ba"),
            (4, "ef/cd/ab"),
            (5, "ace/bdf"),
            (6, "eca/fdb"),
            (7, "fdb/eca"),
            (8, "bdf/ace"),
        ] {
            let o = Orientation::from_exif(value);
            let (w, h) = if o.transposes() { (3, 2) } else { (2, 3) };
            let rows = (0..h).map(|y| {
                let y = if o.mirrors_y() { h - 1 - y } else { y };
                (0..w).map(move |x| {
                    let x = if o.mirrors_x() { w - 1 - x } else { x };
                    if o.transposes() { stored[x][y] } else { stored[y][x] }
                })
            });
            let got = rows.map(|r| r.collect::<String>()).collect::<Vec<_>>().join("/");
            assert_eq!(got, upright, "value {value}");
        }
    }
}
