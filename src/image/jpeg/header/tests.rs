//! Headers of the golden pictures, and markers broken one at a time.

use std::path::Path;

use super::super::jpeg_header;
use super::JpegColor::{Cmyk, Gray, Rgb, YCbCr, Ycck};
use super::JpegProcess::{Baseline, Progressive};
use super::*;
use crate::error::ErrorKind;
use crate::image::Decoder;

fn golden(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn header(encoded: &[u8]) -> JpegHeader {
    jpeg_header(encoded, &Limits::default()).expect("a JPEG").expect("with a frame")
}

#[test]
fn the_kinds_of_the_golden_pictures() {
    use Subsampling::{Gray as Mono, Other, S411, S420, S422, S440, S444};
    for (file, process, subsampling, color, single_scan) in [
        ("astronaut.jpg", Baseline, S420, YCbCr, true),
        ("jpeg_444.jpg", Baseline, S444, YCbCr, true),
        ("jpeg_422.jpg", Baseline, S422, YCbCr, true),
        ("jpeg_440.jpg", Baseline, S440, YCbCr, true),
        ("jpeg_411.jpg", Baseline, S411, YCbCr, true),
        ("jpeg_gray.jpg", Baseline, Mono, Gray, true),
        ("jpeg_restart.jpg", Baseline, S420, YCbCr, true),
        ("jpeg_trailing.jpg", Baseline, S420, YCbCr, true),
        ("jpeg_420_progressive.jpg", Progressive, S420, YCbCr, false),
        ("jpeg_444_progressive.jpg", Progressive, S444, YCbCr, false),
        ("jpeg_411_progressive.jpg", Progressive, S411, YCbCr, false),
        ("jpeg_rgb.jpg", Baseline, S444, Rgb, true),
        ("jpeg_cmyk.jpg", Baseline, Other, Cmyk, true),
        ("jpeg_ycck.jpg", Baseline, Other, Ycck, true),
    ] {
        let header = header(&golden(&format!("images/{file}")));
        let got = (header.process, header.subsampling, header.color, header.scans == 1);
        assert_eq!(got, (process, subsampling, color, single_scan), "{file}");
        assert_eq!((header.precision_bits, header.complete, header.defect), (8, true, None), "{file}");
        assert_eq!(header.restart_interval, if file == "jpeg_restart.jpg" { 2 } else { 0 }, "{file}");
    }
    let header = header(&golden("images/jpeg_no_huffman_tables.jpg"));
    assert_eq!(header.defect, Some("a scan whose tables or components are missing"));
}

#[test]
fn size_and_orientation_are_the_cpu_decoders() {
    let mut decoder = Decoder::new();
    let mut checked = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images")).unwrap()
    {
        let path = entry.unwrap().path();
        let encoded = std::fs::read(&path).unwrap();
        let is_jpeg = path.extension().is_some_and(|e| e == "jpg");
        let Some(header) = jpeg_header(&encoded, &Limits::default()) else {
            assert!(!is_jpeg, "{}", path.display());
            continue;
        };
        let header = header.unwrap();
        let view = decoder.decode(&encoded, &Limits::default()).unwrap();
        let got = (header.width, header.height, header.orientation);
        assert_eq!(got, (view.width(), view.height(), view.orientation()), "{}", path.display());
        checked += 1;
    }
    assert!(checked > 30, "{checked} JPEGs");
}

/// Where the header alone is an error, the CPU decoder's is of the same kind; every other bad file must not look
/// like one for nvJPEG.
#[test]
fn bad_files_are_the_cpu_decoders_to_judge() {
    let mut decoder = Decoder::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bad")).unwrap() {
        let path = entry.unwrap().path();
        let encoded = std::fs::read(&path).unwrap();
        let name = path.display();
        match jpeg_header(&encoded, &Limits::default()) {
            None => assert!(path.extension().is_none_or(|e| e != "jpg"), "{name}"),
            Some(Err(error)) => {
                let expected = decoder.decode(&encoded, &Limits::default()).expect_err("a bad file").kind;
                assert_eq!(error.kind, expected, "{name}");
            }
            Some(Ok(header)) => assert!(!header.complete || header.defect.is_some(), "{name}: {header:?}"),
        }
    }
    let small = Limits { max_image_pixels: 100 };
    let error = jpeg_header(&golden("images/jpeg_420.jpg"), &small).unwrap().expect_err("too large");
    assert_eq!(error.kind, ErrorKind::ImageDimensions);
}

/// Replaces `from`, which occurs, with `to`.
fn edit(encoded: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = memchr::memmem::find(encoded, from).unwrap_or_else(|| panic!("no {from:x?}"));
    [&encoded[..at], to, &encoded[at + from.len()..]].concat()
}

#[test]
fn one_broken_marker_is_a_defect() {
    let baseline = golden("images/jpeg_420.jpg");
    let progressive = golden("images/jpeg_420_progressive.jpg");
    let restart = golden("images/jpeg_restart.jpg");
    let sof = memchr::memmem::find(&baseline, b"\xff\xc0\0\x11").unwrap();
    let frame = baseline[sof..sof + 19].to_vec();
    let twice = [&frame[..], &frame[..]].concat();
    let sos: &[u8] = b"\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11\0\x3f\0";
    let dht = memchr::memmem::find(&baseline, b"\xff\xc4").unwrap();
    let dc_table = &baseline[dht..dht + 5 + 16];
    let over_full = [&dc_table[..5], &[3], &dc_table[6..]].concat();
    let dqt = memchr::memmem::find(&baseline, b"\xff\xdb").unwrap();
    let table = &baseline[dqt..dqt + 6];
    for (what, encoded, defect) in [
        ("second frame", edit(&baseline, &frame, &twice), "a second frame"),
        (
            "zero sampling",
            edit(&baseline, b"\x01\x22\0\x02", b"\x01\x02\0\x02"),
            "a component that is not one",
        ),
        (
            "sampling of 5",
            edit(&baseline, b"\x01\x22\0\x02", b"\x01\x52\0\x02"),
            "a component that is not one",
        ),
        (
            "same identifier",
            edit(&baseline, b"\x02\x11\x01\x03", b"\x01\x11\x01\x03"),
            "a component that is not one",
        ),
        (
            "no quantisation table",
            edit(&baseline, b"\x22\0\x02\x11", b"\x22\x02\x02\x11"),
            "a scan whose tables or components are missing",
        ),
        (
            "unknown component",
            edit(&baseline, sos, b"\xff\xda\0\x0c\x03\x01\0\x02\x11\x04\x11\0\x3f\0"),
            "a scan header that does not fit its frame",
        ),
        (
            "component twice",
            edit(&baseline, sos, b"\xff\xda\0\x0c\x03\x01\0\x02\x11\x02\x11\0\x3f\0"),
            "a scan whose tables or components are missing",
        ),
        (
            "table 2",
            edit(&baseline, sos, b"\xff\xda\0\x0c\x03\x01\x20\x02\x11\x03\x11\0\x3f\0"),
            "a scan whose tables or components are missing",
        ),
        (
            "part of the spectrum",
            edit(&baseline, sos, b"\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11\0\x3e\0"),
            "a scan header that does not fit its frame",
        ),
        (
            "short scan header",
            edit(&baseline, sos, b"\xff\xda\0\x0a\x03\x01\0\x02\x11\0\x3f\0"),
            "a scan header that does not fit its frame",
        ),
        ("stray bytes", edit(&baseline, b"\xff\xdb", b"stray\xff\xdb"), "bytes between segments"),
        (
            "second SOI",
            edit(&baseline, b"\xff\xdb", b"\xff\xd8\xff\xdb"),
            "a marker that has no business in a JPEG file",
        ),
        (
            "DNL",
            edit(&baseline, sos, &[b"\xff\xdc\0\x04\0\x01", sos].concat()),
            "a marker that has no business in a JPEG file",
        ),
        ("over-full Huffman code", edit(&baseline, dc_table, &over_full), "a Huffman table that is not one"),
        (
            "zero quantiser",
            edit(&baseline, table, &[&table[..5], &[0]].concat()),
            "a quantisation table that is not one",
        ),
        ("restart out of order", edit(&restart, b"\xff\xd1", b"\xff\xd2"), "a restart marker out of order"),
        (
            "restart without interval",
            edit(&restart, b"\xff\xdd\0\x04\0\x02", b""),
            "a restart marker out of order",
        ),
        (
            "refinement first",
            edit(&progressive, b"\x03\x10\0\0\x01", b"\x03\x10\0\0\x10"),
            "scans in an order that makes no sense",
        ),
    ] {
        let header = header(&encoded);
        assert_eq!(header.defect, Some(defect), "{what}");
    }
    assert_eq!(header(&baseline).defect, None);
    // Fill bytes before a marker are allowed.
    assert_eq!(header(&edit(&baseline, b"\xff\xdb", b"\xff\xff\xff\xdb")).defect, None);
}

/// Every byte of the markers replaced in turn, and every length: a header never panics, and of a file that it calls
/// whole and sound the CPU decoder may find the entropy-coded data corrupt, and nothing else.
#[test]
fn a_sound_header_is_sound_to_the_cpu_decoder() {
    let limits = Limits { max_image_pixels: 1_000_000 };
    let mut decoder = Decoder::new();
    let (mut sound, mut rest) = (0, 0);
    for file in
        ["jpeg_420.jpg", "jpeg_420_progressive.jpg", "jpeg_restart.jpg", "jpeg_exif_6.jpg", "jpeg_cmyk.jpg"]
    {
        let whole = golden(&format!("images/{file}"));
        let mut check = |encoded: &[u8], what: &str| {
            let Some(Ok(header)) = jpeg_header(encoded, &limits) else { return };
            if !header.complete || header.defect.is_some() || header.precision_bits != 8 {
                rest += 1;
                return;
            }
            sound += 1;
            match decoder.decode(encoded, &limits) {
                Ok(view) => {
                    let size = (view.width(), view.height(), view.orientation());
                    assert_eq!(size, (header.width, header.height, header.orientation), "{file} {what}");
                }
                Err(error) => assert_eq!(error.kind, ErrorKind::CorruptImage, "{file} {what}: {error}"),
            }
        };
        let markers = memchr::memmem::find(&whole, b"\xff\xda").unwrap() + 14;
        for at in 0..markers {
            for value in [0, 0xff, whole[at] ^ 1, whole[at] ^ 0x10] {
                let mut changed = whole.clone();
                changed[at] = value;
                check(&changed, &format!("{value:#x} at {at}"));
            }
        }
        for length in (0..whole.len()).step_by(7) {
            check(&whole[..length], &format!("cut at {length}"));
        }
    }
    assert!(sound > 1000 && rest > 1000, "{sound} sound, {rest} not");
}

#[test]
fn what_the_components_mean() {
    let frame = |ids: &[u8]| {
        let mut components = [Component::default(); 4];
        for (component, &id) in components.iter_mut().zip(ids) {
            component.id = id;
        }
        Frame { process: Baseline, precision_bits: 8, count: ids.len() as u8, components }
    };
    for (ids, jfif, adobe, color) in [
        (&[1][..], false, None, Gray),
        (&[1, 2, 3], true, None, YCbCr),
        (&[0, 1, 2], true, None, YCbCr),
        (&[1, 2, 3], false, None, YCbCr),
        (&[1, 2, 3], false, Some(1), YCbCr),
        (&[1, 2, 3], false, Some(0), Rgb),
        (b"RGB", false, None, Rgb),
        // libjpeg goes by JFIF here; another decoder may go by Adobe.
        (&[1, 2, 3], true, Some(0), JpegColor::Unclear),
        (&[0, 1, 2], false, None, JpegColor::Unclear),
        (&[1, 2, 3], false, Some(7), JpegColor::Unclear),
        (b"CMYK", false, None, Cmyk),
        (b"CMYK", false, Some(0), Cmyk),
        (b"CMYK", false, Some(2), Ycck),
        (b"CMYK", true, Some(1), JpegColor::Unclear),
        (&[1, 2], true, None, JpegColor::Unclear),
    ] {
        assert_eq!(frame(ids).color(jfif, adobe), color, "{ids:?} {jfif} {adobe:?}");
    }
}
