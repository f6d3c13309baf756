//! `golden.json` read and checked: every mistake with file, key and value.

use std::fmt::{self, Display};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Component, Path};

use base64::Engine as _;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    BASE64, Bound, Case, CaseInput, Expected, FORMAT, Golden, MAX_CASES, MAX_FILE_BYTES, MAX_IMAGE_BYTES,
    folder, values,
};
use crate::error::shorten;
use crate::model::spec::ModelSpec;
use crate::problems::Problems;
use crate::tensor::{Datatype, Tensor, TensorSpec};

/// Most keys of one object: more than any model has inputs, and little memory.
const MAX_MEMBERS: usize = 1024;

/// See [`Golden::read`].
pub(super) fn read(path: &Path, spec: &ModelSpec, problems: &mut Problems) -> Option<Golden> {
    let before = problems.0.len();
    let mut reader = Reader { path, spec, problems, images_left: MAX_IMAGE_BYTES };
    let text = match read_bounded(path, MAX_FILE_BYTES) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|e| format!("is not UTF-8: {e}")),
        Err(Unreadable::Missing) => return None,
        Err(Unreadable::Because(why)) => Err(why),
    };
    let golden = match &text {
        Ok(text) => match serde_json::from_str::<&RawValue>(text) {
            Ok(raw) => reader.file(raw),
            Err(e) => reader.problem("", "", format!("not valid JSON: {e}")),
        },
        Err(why) => reader.problem("", "", why),
    };
    golden.filter(|_| problems.0.len() == before)
}

enum Unreadable {
    Missing,
    Because(String),
}

/// A regular file's bytes, if they are at most `limit`: a pipe or a device would never end.
fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, Unreadable> {
    let failed = |e: std::io::Error| {
        if e.kind() == ErrorKind::NotFound {
            return Unreadable::Missing;
        }
        Unreadable::Because(format!("cannot be read: {e}"))
    };
    // Looked at before it is opened: opening a pipe waits for its other end.
    let size = match std::fs::metadata(path).map_err(failed)? {
        m if !m.is_file() => return Err(Unreadable::Because("must be a regular file".to_owned())),
        m => m.len(),
    };
    let too_large = || Unreadable::Because(format!("has {size} bytes; at most {limit} are read"));
    if size > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(limit + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
}

/// Keys and values of an object, in their order, values as they stand.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(serde::de::Error::custom(format!("more than {MAX_MEMBERS} keys")));
                    }
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

impl<'a> Members<'a> {
    fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| *v)
    }
}

/// The cases, as they stand.
struct RawCases<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for RawCases<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = RawCases<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_CASES} cases")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut cases = Vec::new();
                while let Some(case) = seq.next_element()? {
                    if cases.len() == MAX_CASES {
                        return Err(serde::de::Error::invalid_length(cases.len() + 1, &self));
                    }
                    cases.push(case);
                }
                Ok(RawCases(cases))
            }
        }
        deserializer.deserialize_seq(Collect)
    }
}

/// What serde_json says, without a position that counts from the middle of the file.
fn reason(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

struct Reader<'a> {
    path: &'a Path,
    spec: &'a ModelSpec,
    problems: &'a mut Problems,
    images_left: u64,
}

impl Reader<'_> {
    /// Reports `key`; `None`, so that it can end an expression.
    fn problem<T>(&mut self, key: &str, value: impl Display, allowed: impl Display) -> Option<T> {
        let value = value.to_string();
        self.problems.add(self.path.display(), key, shorten(&value), allowed);
        None
    }

    /// The members of an object; keys beyond `known` and keys that come twice are reported.
    fn object<'j>(&mut self, key: &str, raw: &'j RawValue, known: &[&str]) -> Option<Members<'j>> {
        let members: Members<'j> = match serde_json::from_str(raw.get()) {
            Ok(members) => members,
            Err(e) => return self.problem(key, raw.get(), format!("must be an object: {}", reason(&e))),
        };
        let dot = if key.is_empty() { "" } else { "." };
        for (at, (name, value)) in members.0.iter().enumerate() {
            let full = format!("{key}{dot}{}", shorten(name));
            if !known.contains(&name.as_str()) {
                let known = known.join(", ");
                self.problem::<()>(&full, value, format!("unknown key; the keys here are: {known}"));
            } else if members.0[..at].iter().any(|(earlier, _)| earlier == name) {
                self.problem::<()>(&full, value, "comes twice; leave one out");
            }
        }
        Some(members)
    }

    fn string(&mut self, key: &str, raw: &RawValue) -> Option<String> {
        match serde_json::from_str(raw.get()) {
            Ok(text) => Some(text),
            Err(_) => self.problem(key, raw, "must be a string"),
        }
    }

    fn file(&mut self, raw: &RawValue) -> Option<Golden> {
        let top = self.object("", raw, &["format", "made_by", "bound", "cases"])?;
        match top.get("format").map(|f| f.get()) {
            Some(text) if text == FORMAT.to_string() => {}
            found => return self.problem("format", found.unwrap_or("nothing"), format!("must be {FORMAT}")),
        }
        let made_by = top.get("made_by").and_then(|raw| self.string("made_by", raw));
        let bound = top.get("bound").and_then(|raw| self.bound(raw));
        let Some(raw) = top.get("cases") else {
            return self.problem("cases", "", "must be there: a list of inputs with their outputs");
        };
        let cases = match serde_json::from_str::<RawCases<'_>>(raw.get()) {
            Ok(RawCases(cases)) if cases.is_empty() => {
                return self.problem("cases", "[]", "must hold at least one case");
            }
            Ok(RawCases(cases)) => cases,
            Err(e) => return self.problem("cases", "", reason(&e)),
        };
        let read = |(i, raw): (usize, &&RawValue)| self.case(&format!("cases[{i}]"), raw);
        let cases = cases.iter().enumerate().filter_map(read).collect();
        Some(Golden { path: self.path.to_owned(), made_by, bound, cases })
    }

    fn bound(&mut self, raw: &RawValue) -> Option<Bound> {
        let members = self.object("bound", raw, &["cosine", "absolute"])?;
        let mut number = |key: &str, allowed: &str, good: fn(f64) -> bool| {
            let raw = members.get(key)?;
            let value = serde_json::from_str::<f64>(raw.get()).ok().filter(|v| v.is_finite() && good(*v));
            value.or_else(|| self.problem(&format!("bound.{key}"), raw, allowed))
        };
        let cosine = number("cosine", "must be a number from -1 to 1", |v| (-1.0..=1.0).contains(&v));
        let absolute = number("absolute", "must be a number from 0 on", |v| v >= 0.0);
        if members.0.is_empty() {
            return self.problem(
                "bound",
                "{}",
                "must say cosine or absolute, or be left out for the default",
            );
        }
        Some(Bound { cosine, absolute })
    }

    fn case(&mut self, key: &str, raw: &RawValue) -> Option<Case> {
        let kinds = ["image", "image_base64", "inputs"];
        let members = self.object(key, raw, &["name", kinds[0], kinds[1], kinds[2], "outputs"])?;
        let name = members.get("name").and_then(|raw| self.string(&format!("{key}.name"), raw));
        let given: Vec<(&str, &RawValue)> =
            kinds.iter().filter_map(|k| Some((*k, members.get(k)?))).collect();
        let input = match given[..] {
            [(kind, raw)] => {
                let key = format!("{key}.{kind}");
                if kind == "inputs" { self.tensors(&key, raw) } else { self.image(&key, kind, raw) }
            }
            _ => {
                let found = given.iter().map(|(k, _)| *k).collect::<Vec<_>>().join(", ");
                self.problem(key, found, "must have exactly one of image, image_base64, inputs")
            }
        };
        let outputs = match members.get("outputs") {
            Some(raw) => self.outputs(&format!("{key}.outputs"), raw),
            None => self.problem(&format!("{key}.outputs"), "", "must be there: values by output name"),
        };
        let file = given.first().filter(|(kind, _)| *kind == "image");
        let file = file.and_then(|(_, raw)| serde_json::from_str::<String>(raw.get()).ok());
        let name = name.or(file).unwrap_or_default();
        Some(Case { name: shorten(&name).to_owned(), input: input?, outputs: outputs? })
    }

    fn image(&mut self, key: &str, kind: &str, raw: &RawValue) -> Option<CaseInput> {
        let text = self.string(key, raw)?;
        if self.spec.image.is_none() {
            return self.problem(key, "", "this model takes tensors, not images; use inputs");
        }
        let bytes = if kind == "image" {
            self.image_file(key, &text)?
        } else {
            match BASE64.decode(&text) {
                Ok(bytes) => bytes,
                Err(e) => return self.problem(key, shorten(&text), format!("must be base64: {e}")),
            }
        };
        match self.images_left.checked_sub(bytes.len() as u64) {
            _ if bytes.is_empty() => {
                self.problem(key, shorten(&text), "must hold an encoded image; it is empty")
            }
            Some(left) => {
                self.images_left = left;
                Some(CaseInput::Image(Bytes::from(bytes)))
            }
            None => {
                let allowed =
                    format!("the images of this file must not exceed {MAX_IMAGE_BYTES} bytes together");
                self.problem(key, format!("{} bytes", bytes.len()), allowed)
            }
        }
    }

    /// A file in the version's folder or below it, also once links are followed.
    fn image_file(&mut self, key: &str, name: &str) -> Option<Vec<u8>> {
        let inside = "must name a file in the version's folder, without .. and without a / in front";
        let relative = Path::new(name);
        let plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || name.is_empty() || name.contains('\0') {
            return self.problem(key, format!("{name:?}"), inside);
        }
        let folder = folder(self.path);
        let path = folder.join(relative);
        let (folder, real) = match (folder.canonicalize(), path.canonicalize()) {
            (Ok(folder), Ok(real)) => (folder, real),
            (Err(e), _) | (_, Err(e)) => {
                return self.problem(key, name, format!("{} cannot be read: {e}", path.display()));
            }
        };
        if !real.starts_with(&folder) {
            return self.problem(key, name, format!("leads to {}; it {inside}", real.display()));
        }
        match read_bounded(&real, self.images_left) {
            Ok(bytes) => Some(bytes),
            Err(Unreadable::Missing) => self.problem(key, name, format!("{} is not there", real.display())),
            Err(Unreadable::Because(why)) => self.problem(key, name, format!("{} {why}", real.display())),
        }
    }

    fn tensors(&mut self, key: &str, raw: &RawValue) -> Option<CaseInput> {
        let spec = self.spec;
        let names: Vec<&str> = spec.inputs.iter().map(|i| i.name.as_str()).collect();
        let members = self.object(key, raw, &names)?;
        let tensors: Vec<Option<Tensor>> = spec
            .inputs
            .iter()
            .map(|wanted| {
                let key = format!("{key}.{}", wanted.name);
                match members.get(&wanted.name) {
                    Some(raw) => self.tensor(&key, raw, wanted),
                    None => self.problem(&key, "", "must be there: every input of the model has a value"),
                }
            })
            .collect();
        Some(CaseInput::Tensors(tensors.into_iter().collect::<Option<_>>()?))
    }

    /// One input, as a request would bring it; the batch dimension of 1 is taken off.
    fn tensor(&mut self, key: &str, raw: &RawValue, wanted: &TensorSpec) -> Option<Tensor> {
        let members = self.object(key, raw, &["datatype", "shape", "data"])?;
        let (Some(datatype), Some(shape), Some(data)) =
            (members.get("datatype"), members.get("shape"), members.get("data"))
        else {
            return self.problem(key, "", "must have datatype, shape and data");
        };
        let name = self.string(&format!("{key}.datatype"), datatype)?;
        if Datatype::from_name(&name) != Some(wanted.datatype) || wanted.datatype == Datatype::Bytes {
            return self.problem(&format!("{key}.datatype"), name, format!("must be {}", wanted.datatype));
        }
        let batch = self.spec.batched().then_some(1);
        let full: Vec<i64> = batch.into_iter().chain(wanted.shape.iter().copied()).collect();
        let fits = |shape: &Vec<usize>| {
            let same =
                |(got, want): (&usize, &i64)| *got > 0 && (*want < 0 || usize::try_from(*want) == Ok(*got));
            shape.len() == full.len() && shape.iter().zip(&full).all(same)
        };
        let elements = |shape: &[usize]| shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let given = serde_json::from_str::<Vec<usize>>(shape.get()).ok().filter(fits);
        let Some((mut dims, count)) = given.and_then(|s| elements(&s).map(|n| (s, n))) else {
            let rule = if full.iter().any(|d| *d < 0) { ", with a number from 1 on for each -1" } else { "" };
            return self.problem(&format!("{key}.shape"), shape, format!("must be {full:?}{rule}"));
        };
        let data = self.values(&format!("{key}.data"), data, wanted.datatype, Some(count))?;
        if self.spec.batched() {
            dims.remove(0);
        }
        Some(Tensor { datatype: wanted.datatype, shape: dims, data: data.into() })
    }

    fn values(
        &mut self,
        key: &str,
        raw: &RawValue,
        datatype: Datatype,
        count: Option<usize>,
    ) -> Option<Vec<u8>> {
        let data = match values::read(raw.get(), datatype) {
            Ok(data) => data,
            Err(why) => return self.problem(key, raw, why),
        };
        let found = data.len() / datatype.size_bytes().unwrap_or(1);
        match count {
            Some(count) if count != found => {
                self.problem(key, format!("{found} values"), format!("must hold {count} values"))
            }
            None if found == 0 => self.problem(key, "[]", "must hold at least one value"),
            _ => Some(data),
        }
    }

    fn outputs(&mut self, key: &str, raw: &RawValue) -> Option<Vec<Expected>> {
        let spec = self.spec;
        let names: Vec<&str> = spec.outputs.iter().map(|o| o.tensor.name.as_str()).collect();
        let members = self.object(key, raw, &names)?;
        if members.0.is_empty() {
            let allowed = format!("must have at least one of the outputs: {}", names.join(", "));
            return self.problem(key, "{}", allowed);
        }
        let mut outputs = Vec::new();
        for (output, wanted) in spec.outputs.iter().enumerate() {
            let Some(raw) = members.get(&wanted.tensor.name) else { continue };
            let key = format!("{key}.{}", wanted.tensor.name);
            let count = wanted.tensor.row_elements();
            let data = self.values(&key, raw, wanted.tensor.datatype, count)?;
            outputs.push(Expected { output, data });
        }
        Some(outputs)
    }
}
