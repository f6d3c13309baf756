//! stub
use crate::error::InferError;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout { Nchw, Nhwc }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorOrder { Rgb, Bgr }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeRule { Stretch, Letterbox { fill: [u8; 3] }, CenterCrop { shorter_side: Option<u32> } }
#[derive(Debug, Clone, PartialEq)]
pub struct PreprocessConfig { pub width: u32, pub height: u32, pub layout: Layout, pub color_order: ColorOrder, pub mean: [f32; 3], pub scale: [f32; 3], pub resize: ResizeRule }
#[derive(Debug, Clone, Copy)]
pub struct Limits { pub max_image_pixels: u64 }
pub struct Decoder;
pub struct Rgb8View<'a> { pub pixels: &'a [u8] }
impl Decoder { pub fn new() -> Result<Self, InferError> { Ok(Self) } pub fn decode<'a>(&'a mut self, _: &[u8], _: &Limits) -> Result<Rgb8View<'a>, InferError> { Ok(Rgb8View { pixels: &[] }) } }
pub struct Preprocess;
impl Preprocess { pub fn new(_: PreprocessConfig) -> Self { Self } pub fn run(&mut self, _: &Rgb8View<'_>, _: &mut [f32]) {} pub fn run_u8(&mut self, _: &Rgb8View<'_>, _: &mut [u8]) {} }
