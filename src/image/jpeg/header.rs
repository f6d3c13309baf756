//! What kind of JPEG some bytes are, read from their markers before anything is allocated, and whether the markers
//! are what the standard asks for. `gpu::jpeg` chooses the decoder by it; the CPU decoder takes every kind and
//! judges for itself.

use super::markers::{
    APP0, APP14, APP15, COM, DAC, DHT, DQT, DRI, EOI, Head, JPG, RST0, RST7, SOF0, SOF15, SOI, SOS, Segment,
    walk,
};
use super::{check_size, frameless};
use crate::error::InferError;
use crate::ffi::turbojpeg::MAX_SCANS;
use crate::image::{Limits, Orientation};

/// How the samples are coded.
///
/// **Source:** ITU-T T.81, table B.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JpegProcess {
    /// Baseline sequential (SOF0).
    Baseline,
    /// Extended sequential, Huffman (SOF1).
    Extended,
    /// Progressive, Huffman (SOF2).
    Progressive,
    /// Lossless, Huffman (SOF3).
    Lossless,
    /// Arithmetic coding, hierarchical, or reserved.
    Other,
}

/// How often chroma is sampled beside luma. The names are those of `J:a:b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsampling {
    /// One component, sampled 1x1.
    Gray,
    /// As often as luma.
    S444,
    /// Half as often in a row.
    S422,
    /// Half as often in a row and in a column.
    S420,
    /// Half as often in a column.
    S440,
    /// A quarter as often in a row.
    S411,
    /// A quarter as often in a row, half as often in a column.
    S410,
    /// Anything else, chroma sampled more than 1x1 included.
    Other,
}

/// What the components mean, by libjpeg's rules: JFIF, else Adobe's marker, else the component identifiers.
///
/// **Source:** libjpeg-turbo 3.1, `default_decompress_parms` in `jdapimin.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JpegColor {
    /// Luma alone.
    Gray,
    /// Luma and two of chroma.
    YCbCr,
    /// Red, green, blue.
    Rgb,
    /// Four inks.
    Cmyk,
    /// Four inks, the first three as luma and chroma.
    Ycck,
    /// The markers disagree, or libjpeg would only guess.
    Unclear,
}

/// What a JPEG's markers say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JpegHeader {
    /// Pixels in a stored row, at least 1.
    pub width: u32,
    /// Stored rows, at least 1.
    pub height: u32,
    /// How the stored pixels are turned to be seen upright.
    pub orientation: Orientation,
    /// How the samples are coded.
    pub process: JpegProcess,
    /// Bits in a sample.
    pub precision_bits: u8,
    /// Number of components.
    pub components: u8,
    /// Sampling of chroma.
    pub subsampling: Subsampling,
    /// What the components mean.
    pub color: JpegColor,
    /// MCUs between restart markers; 0 for none.
    pub restart_interval: u16,
    /// Number of scans.
    pub scans: u32,
    /// Whether the file reaches its end-of-image marker.
    pub complete: bool,
    /// The first thing in the markers that breaks the standard, or that a decoder may trip over. Entropy-coded data
    /// is not looked into.
    pub defect: Option<&'static str>,
}

impl JpegHeader {
    /// Width times height.
    #[must_use]
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Reads `encoded`, which begins as a JPEG.
    pub(super) fn read(encoded: &[u8], limits: &Limits) -> Result<Self, InferError> {
        let mut reader = Reader::default();
        let complete = walk(encoded, |segment| {
            reader.visit(segment);
            true
        });
        let Some((width, height)) = reader.head.size else { return Err(frameless(encoded, complete)) };
        check_size(limits, width, height)?;
        Ok(reader.finish(width, height, complete))
    }
}

/// One component of the frame.
#[derive(Debug, Clone, Copy, Default)]
struct Component {
    id: u8,
    horizontal: u8,
    vertical: u8,
    quantization: u8,
}

/// The frame header.
#[derive(Debug, Clone, Copy)]
struct Frame {
    process: JpegProcess,
    precision_bits: u8,
    count: u8,
    /// The first `min(count, 4)` are filled in.
    components: [Component; 4],
}

/// Collects what the segments say, in their order.
#[derive(Debug, Default)]
struct Reader {
    head: Head,
    frame: Option<Frame>,
    jfif: bool,
    /// The transform in Adobe's marker.
    adobe: Option<u8>,
    restart_interval: u16,
    /// Tables that were defined: one bit for each identifier.
    quantization: u8,
    huffman_dc: u8,
    huffman_ac: u8,
    soi_seen: bool,
    /// Inside entropy-coded data, where a gap is no surprise.
    in_scan: bool,
    next_restart: u8,
    scans: u32,
    /// Components whose first (DC) coefficient some scan has brought: one bit for each position.
    covered: u8,
    defect: Option<&'static str>,
}

impl Reader {
    fn visit(&mut self, segment: &Segment<'_>) {
        if self.scans == 0 && segment.marker != SOS {
            self.head.visit(segment);
        }
        if let Err(defect) = self.check(segment) {
            self.defect.get_or_insert(defect);
        }
    }

    fn check(&mut self, segment: &Segment<'_>) -> Result<(), &'static str> {
        let (marker, payload) = (segment.marker, segment.payload);
        if let RST0..=RST7 = marker {
            let expected = std::mem::replace(&mut self.next_restart, (marker - RST0 + 1) % 8);
            let sound = self.in_scan && self.restart_interval > 0 && marker - RST0 == expected;
            return if sound { Ok(()) } else { Err("a restart marker out of order") };
        }
        let stray = !self.in_scan && segment.gap.iter().any(|&byte| byte != 0xff);
        self.in_scan = false;
        if stray {
            return Err("bytes between segments");
        }
        match marker {
            SOI if !self.soi_seen => self.soi_seen = true,
            DHT => self.huffman_tables(payload)?,
            DQT => self.quantization_tables(payload)?,
            DRI => {
                let interval = payload.try_into().map_err(|_| "a restart interval of another length")?;
                self.restart_interval = u16::from_be_bytes(interval);
            }
            DAC | JPG => return Err("arithmetic coding or a reserved frame"),
            SOF0..=SOF15 => self.frame(marker, payload)?,
            SOS => self.scan(payload)?,
            APP0 => self.jfif |= payload.len() >= 14 && payload.starts_with(b"JFIF\0"),
            APP14 if payload.len() >= 12 && payload.starts_with(b"Adobe") => self.adobe = Some(payload[11]),
            APP0..=APP15 | COM | EOI => {}
            _ => return Err("a marker that has no business in a JPEG file"),
        }
        Ok(())
    }

    fn huffman_tables(&mut self, mut payload: &[u8]) -> Result<(), &'static str> {
        const DEFECT: &str = "a Huffman table that is not one";
        while let Some((&[kind, ref counts @ ..], rest)) = payload.split_first_chunk::<17>() {
            let (class, id) = (kind >> 4, kind & 15);
            let mut code = 0_u32;
            for (count, bits) in counts.iter().zip(1..) {
                code = (code << 1) + u32::from(*count);
                // No code may be all ones.
                if *count > 0 && code >= 1 << bits {
                    return Err(DEFECT);
                }
            }
            let symbols: usize = counts.iter().map(|&count| usize::from(count)).sum();
            if class > 1 || id > 3 || symbols > 256 || symbols > rest.len() {
                return Err(DEFECT);
            }
            let (symbols, rest) = rest.split_at(symbols);
            if class == 0 && symbols.iter().any(|&size| size > 15) {
                return Err(DEFECT);
            }
            *(if class == 0 { &mut self.huffman_dc } else { &mut self.huffman_ac }) |= 1 << id;
            payload = rest;
        }
        if payload.is_empty() { Ok(()) } else { Err(DEFECT) }
    }

    fn quantization_tables(&mut self, mut payload: &[u8]) -> Result<(), &'static str> {
        const DEFECT: &str = "a quantisation table that is not one";
        while let Some((&kind, rest)) = payload.split_first() {
            let (wide, id) = (kind >> 4, kind & 15);
            let bytes = if wide == 0 { 64 } else { 128 };
            if wide > 1 || id > 3 || rest.len() < bytes {
                return Err(DEFECT);
            }
            let (values, rest) = rest.split_at(bytes);
            let zero = if wide == 0 { values.contains(&0) } else { values.chunks(2).any(|v| v == [0, 0]) };
            if zero {
                return Err(DEFECT);
            }
            self.quantization |= 1 << id;
            payload = rest;
        }
        Ok(())
    }

    fn frame(&mut self, marker: u8, payload: &[u8]) -> Result<(), &'static str> {
        if self.frame.is_some() {
            return Err("a second frame");
        }
        let Some((&[precision_bits, _, _, _, _, count], rest)) = payload.split_first_chunk::<6>() else {
            return Err("a frame header of another length");
        };
        let process = match marker {
            0xc0 => JpegProcess::Baseline,
            0xc1 => JpegProcess::Extended,
            0xc2 => JpegProcess::Progressive,
            0xc3 => JpegProcess::Lossless,
            _ => JpegProcess::Other,
        };
        let mut frame = Frame { process, precision_bits, count, components: [Component::default(); 4] };
        let (listed, tail) = rest.as_chunks::<3>();
        for (component, &[id, sampling, quantization]) in frame.components.iter_mut().zip(listed) {
            let (horizontal, vertical) = (sampling >> 4, sampling & 15);
            *component = Component { id, horizontal, vertical, quantization };
        }
        self.frame = Some(frame);
        if listed.len() != usize::from(count) || !tail.is_empty() || !(1..=4).contains(&count) {
            return Err("a frame header of another length");
        }
        let components = frame.listed();
        for (at, c) in components.iter().enumerate() {
            let twice = components[..at].iter().any(|other| other.id == c.id);
            if twice
                || !(1..=4).contains(&c.horizontal)
                || !(1..=4).contains(&c.vertical)
                || c.quantization > 3
            {
                return Err("a component that is not one");
            }
        }
        Ok(())
    }

    fn scan(&mut self, payload: &[u8]) -> Result<(), &'static str> {
        const DEFECT: &str = "a scan header that does not fit its frame";
        (self.in_scan, self.next_restart) = (true, 0);
        self.scans += 1;
        if self.scans > MAX_SCANS.cast_unsigned() {
            return Err("too many scans");
        }
        let Some(frame) = self.frame else { return Err("a scan before its frame") };
        let (&count, rest) = payload.split_first().ok_or(DEFECT)?;
        let (rest, &[from, to, approximation]) = rest.split_last_chunk::<3>().ok_or(DEFECT)?;
        let (selected, tail) = rest.as_chunks::<2>();
        if !(1..=4).contains(&count) || selected.len() != usize::from(count) || !tail.is_empty() {
            return Err(DEFECT);
        }
        let (high, low) = (approximation >> 4, approximation & 15);
        let progressive = frame.process == JpegProcess::Progressive;
        let spectrum = if progressive {
            let band = if from == 0 { to == 0 } else { count == 1 && from <= to && to <= 63 };
            band && low <= 13 && (high == 0 || high == low + 1)
        } else {
            from == 0 && to == 63 && approximation == 0
        };
        if !spectrum {
            return Err(DEFECT);
        }
        let (mut scanned, mut units) = (0_u8, 0);
        for &[id, tables] in selected {
            let at = frame.listed().iter().position(|c| c.id == id).ok_or(DEFECT)?;
            let component = frame.components[at];
            let (dc, ac) = (tables >> 4, tables & 15);
            let has = |defined: u8, id: u8| id <= 3 && defined >> id & 1 == 1;
            let needs_dc = from == 0 && high == 0;
            let needs_ac = !progressive || from > 0;
            if scanned >> at & 1 == 1
                || !has(self.quantization, component.quantization)
                || needs_dc && !has(self.huffman_dc, dc)
                || needs_ac && !has(self.huffman_ac, ac)
            {
                return Err("a scan whose tables or components are missing");
            }
            scanned |= 1 << at;
            units += u32::from(component.horizontal) * u32::from(component.vertical);
        }
        // Ten blocks is the most that an interleaved MCU may have (T.81, B.2.3).
        if count > 1 && units > 10 {
            return Err(DEFECT);
        }
        let first_pass = from == 0 && high == 0;
        let out_of_order =
            if first_pass { self.covered & scanned != 0 } else { self.covered & scanned != scanned };
        if out_of_order {
            return Err("scans in an order that makes no sense");
        }
        self.covered |= scanned;
        Ok(())
    }

    fn finish(self, width: u32, height: u32, complete: bool) -> JpegHeader {
        let frame = self.frame.unwrap_or(Frame {
            process: JpegProcess::Other,
            precision_bits: 0,
            count: 0,
            components: [Component::default(); 4],
        });
        let uncovered =
            (self.covered.count_ones() != u32::from(frame.count)).then_some("a component in no scan");
        JpegHeader {
            width,
            height,
            orientation: self.head.orientation,
            process: frame.process,
            precision_bits: frame.precision_bits,
            components: frame.count,
            subsampling: frame.subsampling(),
            color: frame.color(self.jfif, self.adobe),
            restart_interval: self.restart_interval,
            scans: self.scans,
            complete,
            defect: self.defect.or(uncovered),
        }
    }
}

impl Frame {
    fn listed(&self) -> &[Component] {
        &self.components[..usize::from(self.count).min(4)]
    }

    fn subsampling(&self) -> Subsampling {
        let factors = |c: &Component| (c.horizontal, c.vertical);
        match self.listed() {
            [only] if factors(only) == (1, 1) => Subsampling::Gray,
            [luma, blue, red] if factors(blue) == (1, 1) && factors(red) == (1, 1) => match factors(luma) {
                (1, 1) => Subsampling::S444,
                (2, 1) => Subsampling::S422,
                (2, 2) => Subsampling::S420,
                (1, 2) => Subsampling::S440,
                (4, 1) => Subsampling::S411,
                (4, 2) => Subsampling::S410,
                _ => Subsampling::Other,
            },
            _ => Subsampling::Other,
        }
    }

    fn color(&self, jfif: bool, adobe: Option<u8>) -> JpegColor {
        match self.listed() {
            [_] => JpegColor::Gray,
            [a, b, c] => match (jfif, adobe, [a.id, b.id, c.id]) {
                (true, None | Some(1), _) | (false, Some(1), _) | (false, None, [1, 2, 3]) => {
                    JpegColor::YCbCr
                }
                (false, Some(0), _) | (false, None, [b'R', b'G', b'B']) => JpegColor::Rgb,
                _ => JpegColor::Unclear,
            },
            [_, _, _, _] => match adobe {
                None | Some(0) => JpegColor::Cmyk,
                Some(2) => JpegColor::Ycck,
                Some(_) => JpegColor::Unclear,
            },
            _ => JpegColor::Unclear,
        }
    }
}

#[cfg(test)]
mod tests;
