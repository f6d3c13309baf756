//! JPEG decoding on the GPU, over the fake libcuda and libnvjpeg of `tests/fake`: pixels equal the CPU decoder's, and
//! the order of calls is one that nvJPEG allows, which the fake checks harshly.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
#![allow(
    unsafe_code,
    reason = "gives device memory and streams to the decoders, and misuses the fake on purpose"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test that starts itself again tells the child so by its environment"
)]

mod harness;

use std::path::Path;

use cudarc::driver::result;
use harness::{
    Batch, Device, Memory, Picture, decide, decode_batch, golden, goldens, in_child, on_device, picture,
    size, start, stream, synchronize,
};
use libloading::Symbol;
use visord::gpu::descriptor::DeviceImage;
use visord::gpu::jpeg::{
    Capabilities, Decode, DecodeError, DecoderChoice, HardwareDecoder, HybridLane, Library, Nvjpeg,
    sample_jpegs,
};

fn pixels_equal(device: &Device) {
    let nvjpeg = device.nvjpeg();
    assert_eq!(nvjpeg.hardware(), Ok(Some((1, 5))));
    let stream = stream();
    let pictures = goldens();
    let way = |choice| {
        pictures.iter().filter(|p| decide(&p.header, choice) != Decode::Cpu).collect::<Vec<&Picture>>()
    };

    let engine: Vec<&Picture> = way(DecoderChoice::Hardware)
        .into_iter()
        .filter(|p| decide(&p.header, DecoderChoice::Hardware) == Decode::Hardware)
        .collect();
    let mut decoder = nvjpeg.hardware_decoder(engine.len()).unwrap();
    for p in &engine {
        assert_eq!(decoder.supported(&p.encoded, size(&p.header)), Ok(true), "{}", p.name);
    }
    decode_batch(&mut decoder, &engine, stream);
    // Two batches of different numbers, without a wait between them here.
    let (one, rest) = engine.split_at(1);
    let two = [Batch::new(one), Batch::new(rest)];
    for batch in &two {
        batch.enqueue(&mut decoder, stream);
    }
    // Waits for what it still decodes.
    drop(decoder);
    synchronize(stream);
    two.iter().for_each(Batch::compare);

    // The phases of several pictures overlap: memory is read when all are enqueued.
    let hybrid = way(DecoderChoice::Hybrid);
    let memory: Vec<Memory> = hybrid.iter().map(|p| Memory::new(&p.header)).collect();
    let mut lane = nvjpeg.hybrid_lane().unwrap();
    for (p, memory) in hybrid.iter().zip(&memory) {
        // SAFETY: the memory has the picture's size, and lives until the stream is synchronised.
        unsafe { lane.decode(&p.encoded, &memory.image, stream) }
            .unwrap_or_else(|e| panic!("{}: {e}", p.name));
    }
    drop(lane);
    synchronize(stream);
    for (p, memory) in hybrid.iter().zip(&memory) {
        assert!(memory.pixels() == p.expected, "{} differs from the CPU's", p.name);
    }

    let names = |kept: &dyn Fn(&Picture) -> bool| -> Vec<String> {
        pictures.iter().filter(|p| !kept(p)).map(|p| p.name.clone()).collect()
    };
    assert_eq!(
        names(&|p| hybrid.iter().any(|h| h.name == p.name)),
        ["jpeg_cmyk.jpg", "jpeg_no_huffman_tables.jpg", "jpeg_rgb.jpg", "jpeg_ycck.jpg"],
        "left to the CPU"
    );
    assert!(engine.len() >= 22 && hybrid.len() == pictures.len() - 4, "{} {}", engine.len(), hybrid.len());
}

#[test]
fn pixels_equal_the_cpu_decoders() {
    let Some(ended) = on_device("pixels_equal_the_cpu_decoders", &[], pixels_equal) else { return };
    assert!(ended.count("pictures", "hardware") >= 22, "{}", ended.counters);
    assert!(ended.count("pictures", "hybrid") >= 30, "{}", ended.counters);
    for (made, destroyed) in [
        ("nvjpegCreateEx", "nvjpegDestroy"),
        ("nvjpegJpegStreamCreate", "nvjpegJpegStreamDestroy"),
        ("nvjpegBufferPinnedCreate", "nvjpegBufferPinnedDestroy"),
        ("nvjpegBufferDeviceCreate", "nvjpegBufferDeviceDestroy"),
        ("nvjpegDecoderCreate", "nvjpegDecoderDestroy"),
        ("nvjpegDecodeParamsCreate", "nvjpegDecodeParamsDestroy"),
    ] {
        assert!(ended.count("calls", made) > 0, "{made}");
        assert_eq!(ended.count("calls", made), ended.count("calls", destroyed), "{made}, {destroyed}");
    }
}

#[test]
fn pixels_equal_under_sanitizers() {
    if let Some(libraries) = in_child() {
        return pixels_equal(&Device::new(&libraries));
    }
    let ended = start("pixels_equal_under_sanitizers", &[], true);
    assert!(ended.success, "{}", ended.output);
    assert!(ended.count("pictures", "hybrid") >= 30, "{}", ended.counters);
}

#[test]
fn a_gpu_without_an_engine_is_an_ordinary_outcome() {
    on_device(
        "a_gpu_without_an_engine_is_an_ordinary_outcome",
        &[("VISORD_FAKE_NVJPEG_HARDWARE", "0"), ("VISORD_FAKE_NVJPEG_VERSION", "12.0.1")],
        |device| {
            assert!(!device.library.interpolates_chroma());
            let nvjpeg = device.nvjpeg();
            let error = nvjpeg.hardware().expect_err("no engine");
            assert!(error.means_no_engine(), "{error}");
            assert_eq!(error.to_string(), "nvjpegCreateEx failed with status 7 (ARCH_MISMATCH)");
            assert_eq!(nvjpeg.capabilities(), Capabilities { hardware: false, hybrid: true });
            assert_eq!(nvjpeg.hardware_decoder(8).err(), Some(DecodeError::Device(error)));
            // The lane decodes all the same.
            let p = golden("astronaut.jpg");
            let memory = Memory::new(&p.header);
            let (mut lane, stream) = (nvjpeg.hybrid_lane().unwrap(), stream());
            // SAFETY: the memory has the picture's size, and lives until the stream is synchronised.
            unsafe { lane.decode(&p.encoded, &memory.image, stream) }.unwrap();
            synchronize(stream);
            assert!(memory.pixels() == p.expected);
        },
    );
}

#[test]
fn a_rejected_picture_is_named_and_the_next_one_decodes() {
    on_device(
        "a_rejected_picture_is_named_and_the_next_one_decodes",
        &[("VISORD_FAKE_NVJPEG_REJECT", "422")],
        |device| {
            let (nvjpeg, stream) = (device.nvjpeg(), stream());
            let (plain, refused) = (golden("jpeg_420.jpg"), golden("jpeg_422.jpg"));
            let mut decoder = nvjpeg.hardware_decoder(3).unwrap();
            assert_eq!(decoder.supported(&refused.encoded, size(&refused.header)), Ok(false));
            assert_eq!(decoder.supported(b"\xff\xd8\xffno JPEG", (8, 8)), Ok(false));
            let batch = Batch::new(&[&plain, &refused, &plain]);
            let memory = &batch.memory;
            // SAFETY: the memory has the pictures' sizes, and lives until the stream is synchronised.
            let error = unsafe { decoder.decode(&batch.arguments(), stream) }.expect_err("one is rejected");
            assert!(
                matches!(&error, DecodeError::Rejected { pictures, source } if pictures == &[1] && source.code == 4),
                "{error:?}"
            );
            decode_batch(&mut decoder, &[&plain, &plain], stream);

            let mut lane = nvjpeg.hybrid_lane().unwrap();
            // SAFETY: as above.
            let error =
                unsafe { lane.decode(&refused.encoded, &memory[1].image, stream) }.expect_err("rejected");
            assert!(
                matches!(&error, DecodeError::Rejected { pictures, .. } if pictures == &[0]),
                "{error:?}"
            );
            // A header that nvJPEG cannot read is the picture's fault too.
            // SAFETY: as above.
            let error =
                unsafe { lane.decode(b"\xff\xd8\xffno", &memory[1].image, stream) }.expect_err("rejected");
            assert!(matches!(&error, DecodeError::Rejected { source, .. } if source.code == 3), "{error:?}");
            // SAFETY: as above.
            unsafe { lane.decode(&plain.encoded, &memory[0].image, stream) }.unwrap();
            synchronize(stream);
            assert!(memory[0].pixels() == plain.expected);

            // Nor is anything written where nvJPEG reads another size than visord did.
            let other = DeviceImage { height: plain.header.height - 1, ..memory[0].image };
            // SAFETY: refused before anything is written.
            let error = unsafe { lane.decode(&plain.encoded, &other, stream) }.expect_err("another size");
            assert!(matches!(&error, DecodeError::Rejected { source, .. } if source.code == 3), "{error:?}");
            let batch = [(&plain.encoded[..], memory[0].image), (&plain.encoded[..], other)];
            // SAFETY: as above.
            let error = unsafe { decoder.decode(&batch, stream) }.expect_err("another size");
            assert!(
                matches!(&error, DecodeError::Rejected { pictures, .. } if pictures == &[1]),
                "{error:?}"
            );

            // Memory that is too small never reaches nvJPEG.
            let short = DeviceImage { bytes: memory[0].image.bytes - 1, ..memory[0].image };
            // SAFETY: refused before anything is touched.
            let error = unsafe { lane.decode(&plain.encoded, &short, stream) }.expect_err("too small");
            assert!(matches!(error, DecodeError::Memory { picture: 0, .. }), "{error:?}");
            let narrow = DeviceImage { pitch: plain.header.width as usize * 3 - 1, ..memory[0].image };
            let batch = [(&plain.encoded[..], memory[0].image), (&plain.encoded[..], narrow)];
            // SAFETY: refused before anything is touched.
            let error = unsafe { decoder.decode(&batch, stream) }.expect_err("rows too short");
            assert!(matches!(error, DecodeError::Memory { picture: 1, .. }), "{error:?}");
        },
    );
}

#[test]
fn the_device_failing_is_no_pictures_fault() {
    on_device(
        "the_device_failing_is_no_pictures_fault",
        &[("VISORD_FAKE_NVJPEG_FAIL_EVERY", "3")],
        |device| {
            let (nvjpeg, stream) = (device.nvjpeg(), stream());
            let p = golden("jpeg_420.jpg");
            let memory = Memory::new(&p.header);
            let mut lane = nvjpeg.hybrid_lane().unwrap();
            let mut decoder = nvjpeg.hardware_decoder(1).unwrap();
            for turn in 1..=12 {
                let result = if turn % 2 == 0 {
                    // SAFETY: the memory has the picture's size, and lives until the stream is synchronised.
                    unsafe { lane.decode(&p.encoded, &memory.image, stream) }
                } else {
                    // SAFETY: as above.
                    unsafe { decoder.decode(&[(&p.encoded, memory.image)], stream) }
                };
                match result {
                    Err(DecodeError::Device(error)) => {
                        assert_eq!((turn % 3, error.code), (0, 6), "turn {turn}")
                    }
                    other => assert_eq!((other, turn % 3 == 0), (Ok(()), false), "turn {turn}"),
                }
                synchronize(stream);
                if turn % 3 != 0 {
                    assert!(memory.pixels() == p.expected, "turn {turn}");
                }
            }
        },
    );
}

#[test]
fn the_state_is_initialised_when_the_number_changes() {
    let Some(ended) = on_device("the_state_is_initialised_when_the_number_changes", &[], |device| {
        let (nvjpeg, stream) = (device.nvjpeg(), stream());
        let pictures = [golden("jpeg_420.jpg"), golden("jpeg_444.jpg"), golden("face.jpg")];
        let mut decoder = nvjpeg.hardware_decoder(3).unwrap();
        for count in [3, 3, 3, 2, 2, 1, 3] {
            let batch: Vec<&Picture> = pictures.iter().take(count).collect();
            decode_batch(&mut decoder, &batch, stream);
        }
    }) else {
        return;
    };
    assert_eq!(ended.count("calls", "nvjpegDecodeBatchedInitialize"), 4, "{}", ended.counters);
    assert_eq!(ended.counters["batches"], serde_json::json!({"1": 1, "2": 2, "3": 4}));
}

/// Decoders may move to the thread that decodes, and the handles be shared.
#[test]
fn decoders_move_between_threads() {
    fn sends<T: Send>() {}
    fn shares<T: Sync>() {}
    sends::<HybridLane>();
    sends::<HardwareDecoder>();
    sends::<Nvjpeg>();
    shares::<Nvjpeg>();
}

#[test]
fn lanes_of_many_threads_do_not_meet() {
    let Some(ended) = on_device("lanes_of_many_threads_do_not_meet", &[], |device| {
        let nvjpeg = device.nvjpeg();
        let mut pictures: Vec<Picture> = goldens()
            .into_iter()
            .filter(|p| decide(&p.header, DecoderChoice::Hybrid) == Decode::Hybrid)
            .collect();
        pictures.extend(sample_jpegs().unwrap().into_iter().map(|s| picture("sample", s.encoded)));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (nvjpeg, pictures) = (&nvjpeg, &pictures);
                scope.spawn(move || {
                    device.enter();
                    let (mut lane, stream) = (nvjpeg.hybrid_lane().unwrap(), stream());
                    for round in 0..12 {
                        let p = &pictures[(thread * 5 + round * 3) % pictures.len()];
                        let memory = Memory::new(&p.header);
                        // SAFETY: the memory has the picture's size, and lives until the stream is synchronised.
                        unsafe { lane.decode(&p.encoded, &memory.image, stream) }.unwrap();
                        synchronize(stream);
                        assert!(memory.pixels() == p.expected, "{} in thread {thread}", p.name);
                    }
                });
            }
        });
    }) else {
        return;
    };
    assert_eq!(ended.count("pictures", "hybrid"), 8 * 12, "{}", ended.counters);
}

#[test]
fn nothing_is_freed_after_a_sticky_error() {
    // The batch is the first launch, the lane's copy the second and its device phase the third.
    let environment = [("VISORD_FAKE_CUDA_STICKY_AFTER", "2")];
    let Some(ended) = on_device("nothing_is_freed_after_a_sticky_error", &environment, |device| {
        let (nvjpeg, stream) = (device.nvjpeg(), stream());
        let p = golden("jpeg_420.jpg");
        let memory = std::mem::ManuallyDrop::new(Memory::new(&p.header));
        let mut decoder = nvjpeg.hardware_decoder(1).unwrap();
        // SAFETY: the memory has the picture's size, and is never freed.
        unsafe { decoder.decode(&[(&p.encoded, memory.image)], stream) }.unwrap();
        let mut lane = nvjpeg.hybrid_lane().unwrap();
        // SAFETY: as above.
        unsafe { lane.decode(&p.encoded, &memory.image, stream) }.unwrap();
        // The error shows with the next picture, at the latest.
        // SAFETY: as above.
        let error =
            unsafe { lane.decode(&p.encoded, &memory.image, stream) }.expect_err("the context is lost");
        assert!(matches!(error, DecodeError::Cuda { code: 700, .. } | DecodeError::Device(_)), "{error:?}");
        lane.abandon();
        decoder.abandon();
        nvjpeg.abandon();
    }) else {
        return;
    };
    let calls = ended.counters["calls"].as_object().expect("calls were counted");
    let freed: Vec<&String> = calls.keys().filter(|name| name.ends_with("Destroy")).collect();
    assert!(freed.is_empty(), "{freed:?}");
}

// What the fake is for: each of these ends a process that does it.

type Call1 = unsafe extern "C" fn(*mut std::ffi::c_void) -> i32;

#[test]
fn the_fake_ends_a_process_that_misuses_it() {
    const NAME: &str = "the_fake_ends_a_process_that_misuses_it";
    const MISUSES: [(&str, &str); 5] = [
        ("null", "nvjpegJpegStreamDestroy: the JPEG stream is null"),
        ("kind", "nvjpegJpegStreamDestroy: a handle was given for a JPEG stream"),
        ("twice", "nvjpegDestroy: the handle was destroyed"),
        ("children", "nvjpegDestroy: 1 objects made from the handle are still there"),
        ("context", "no context is current"),
    ];
    if let Some(libraries) = in_child() {
        return misuse(&libraries, &std::env::var("VISORD_TEST_MISUSE").unwrap());
    }
    for (misuse, text) in MISUSES {
        let delay = ("VISORD_FAKE_CUDA_DELAY_MICROSECONDS", "200000");
        let ended = start(NAME, &[("VISORD_TEST_MISUSE", misuse), delay], false);
        assert!(!ended.success, "{misuse} went unnoticed");
        assert!(ended.output.contains(text), "{misuse}: {}", ended.output);
    }
}

fn misuse(libraries: &Path, misuse: &str) {
    use std::ffi::c_void;
    use std::ptr::{null_mut, with_exposed_provenance_mut};
    if misuse == "context" {
        result::init().unwrap();
        let _ = Nvjpeg::new(Library::open(Some(libraries)).unwrap());
        return;
    }
    let device = Device::new(libraries);
    // SAFETY: the fake is open already, and runs its constructors once.
    let fake = unsafe { libloading::Library::new(libraries.join("libnvjpeg.so.12")) }.unwrap();
    // SAFETY: the signatures are those of the fake.
    let create: Symbol<
        '_,
        unsafe extern "C" fn(i32, *mut c_void, *mut c_void, u32, *mut *mut c_void) -> i32,
    > = unsafe { fake.get(b"nvjpegCreateEx") }.unwrap();
    // SAFETY: as above.
    let destroy: Symbol<'_, Call1> = unsafe { fake.get(b"nvjpegDestroy") }.unwrap();
    // SAFETY: as above.
    let stream_create: Symbol<'_, unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> i32> =
        unsafe { fake.get(b"nvjpegJpegStreamCreate") }.unwrap();
    // SAFETY: as above.
    let stream_destroy: Symbol<'_, Call1> = unsafe { fake.get(b"nvjpegJpegStreamDestroy") }.unwrap();
    let (mut handle, mut picture) = (null_mut(), null_mut());
    // SAFETY: `handle` is written.
    assert_eq!(unsafe { create(0, null_mut(), null_mut(), 0, &raw mut handle) }, 0);
    match misuse {
        // SAFETY: ends the process.
        "null" => drop(unsafe { stream_destroy(with_exposed_provenance_mut(0)) }),
        // SAFETY: ends the process.
        "kind" => drop(unsafe { stream_destroy(handle) }),
        "twice" => {
            // SAFETY: nothing was made from the handle.
            assert_eq!(unsafe { destroy(handle) }, 0);
            // SAFETY: ends the process.
            unsafe { destroy(handle) };
        }
        "children" => {
            // SAFETY: the handle is live.
            assert_eq!(unsafe { stream_create(handle, &raw mut picture) }, 0);
            // SAFETY: ends the process.
            unsafe { destroy(handle) };
        }
        other => panic!("{other} is no misuse"),
    }
    drop(device);
}
