//! The page at `/`: a console that the daemon serves itself. Its files are beside this one and built in; it has no data
//! of its own, but asks the API as any client does.
//!
//! Neighbour: `http.rs`, which sends `Route::Console` here where the page is on and the port is that of HTTP.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};

use super::reply::{Reply, reply};

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const STYLE: HeaderValue = HeaderValue::from_static("text/css; charset=utf-8");
const SCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
const PICTURE: HeaderValue = HeaderValue::from_static("image/svg+xml");

/// Scripts, styles and requests come from this origin alone, none is inline; pictures besides from what the user
/// picked (`blob:`). Nobody may frame the page.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

static OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
static RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

struct File {
    /// Last segment of its path below `/console/`; "" is the page.
    name: &'static str,
    content_type: HeaderValue,
    text: &'static str,
}

macro_rules! files {
    ($($name:literal, $file:literal, $content_type:ident;)+) => {
        [$(File { name: $name, content_type: $content_type, text: include_str!($file) }),+]
    };
}

const COUNT: usize = 14;

static FILES: [File; COUNT] = files! {
    "", "index.html", HTML;
    "console.css", "console.css", STYLE;
    "icon.svg", "icon.svg", PICTURE;
    "theme.js", "theme.js", SCRIPT;
    "app.js", "app.js", SCRIPT;
    "charts.js", "charts.js", SCRIPT;
    "client.js", "client.js", SCRIPT;
    "commands.js", "commands.js", SCRIPT;
    "compare.js", "compare.js", SCRIPT;
    "dom.js", "dom.js", SCRIPT;
    "live.js", "live.js", SCRIPT;
    "metrics.js", "metrics.js", SCRIPT;
    "models.js", "models.js", SCRIPT;
    "tryit.js", "tryit.js", SCRIPT;
};

/// Of each file, what changes with its content: the commit would not, in a build of changed files.
static TAGS: LazyLock<[HeaderValue; COUNT]> = LazyLock::new(|| {
    FILES.each_ref().map(|file| {
        let hash = Sha256::digest(file.text);
        let hex: String = hash[..12].iter().map(|b| format!("{b:02x}")).collect();
        HeaderValue::from_str(&format!("\"{hex}\"")).expect("hex digits and quotes are a header's characters")
    })
});

/// Whether there is such a file.
#[must_use]
pub fn has(name: &str) -> bool {
    FILES.iter().any(|file| file.name == name)
}

/// Whether a client that asks for `/` wants a page: `text/html` is named in `Accept`, as every browser does.
///
/// Whoever takes anything (`*/*`, or no `Accept`) is a program, and gets the API's answer.
#[must_use]
pub fn wanted(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    values.any(|value| {
        value.split(',').any(|part| {
            let mut fields = part.split(';').map(str::trim);
            let refused = |f: &str| f.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
            fields.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/html")) && !fields.any(refused)
        })
    })
}

/// A file of the page, "" being the page itself; 304 where the client has it. `None` where there is no such file.
///
/// Files keep their names from build to build, so browsers ask each time whether theirs is still the one.
#[must_use]
pub fn answer(name: &str, headers: &HeaderMap) -> Option<Reply> {
    let at = FILES.iter().position(|file| file.name == name)?;
    let (file, tag) = (&FILES[at], &TAGS[at]);
    let mut answer = if matches(headers, tag) {
        let mut answer = Reply::default();
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        reply(StatusCode::OK, file.content_type.clone(), Bytes::from_static(file.text.as_bytes()))
    };
    let set = answer.headers_mut();
    set.insert(ETAG, tag.clone());
    set.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    set.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    set.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    set.insert(CONTENT_SECURITY_POLICY, POLICY);
    set.insert(OPENER_POLICY.clone(), HeaderValue::from_static("same-origin"));
    set.insert(RESOURCE_POLICY.clone(), HeaderValue::from_static("same-origin"));
    if name.is_empty() {
        set.insert(VARY, HeaderValue::from_static("accept"));
    }
    Some(answer)
}

/// Whether `If-None-Match` names `tag`, weakly or not, or anything.
fn matches(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let mut values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    values.any(|value| {
        value.split(',').map(|t| t.trim()).any(|t| t == "*" || t.strip_prefix("W/").unwrap_or(t) == tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn only_who_names_html_wants_the_page() {
        let cases = [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("TEXT/HTML; charset=utf-8", true),
            ("application/json, text/html;q=0.1", true),
            ("text/html;q=0", false),
            ("text/html; q=0.000", false),
            ("application/json", false),
            ("*/*", false),
            ("text/*", false),
            ("text/htmlx", false),
            ("", false),
        ];
        for (accept, want) in cases {
            assert_eq!(wanted(&headers(ACCEPT, accept)), want, "{accept}");
        }
        assert!(!wanted(&HeaderMap::new()));
    }

    #[test]
    fn a_file_that_the_client_has_is_not_sent_again() {
        for file in &FILES {
            let name = file.name;
            let first = answer(name, &HeaderMap::new()).unwrap();
            assert_eq!(first.status(), StatusCode::OK, "{name}");
            let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
            for (value, status) in [
                (tag.clone(), StatusCode::NOT_MODIFIED),
                (format!("W/{tag}"), StatusCode::NOT_MODIFIED),
                (format!("\"other\", {tag}"), StatusCode::NOT_MODIFIED),
                ("*".to_owned(), StatusCode::NOT_MODIFIED),
                ("\"other\"".to_owned(), StatusCode::OK),
                (tag.replace('"', ""), StatusCode::OK),
            ] {
                let again = answer(name, &headers(IF_NONE_MATCH, &value)).unwrap();
                assert_eq!(again.status(), status, "{name}: {value}");
                assert_eq!(again.headers()[ETAG].to_str().unwrap(), tag, "{name}: {value}");
            }
        }
        assert!(
            answer("mod.rs", &HeaderMap::new()).is_none()
                && answer("../http.rs", &HeaderMap::new()).is_none()
        );
    }

    /// The page's files name each other by hand: a script that is not embedded would only be missed in a browser.
    #[test]
    fn every_file_that_is_named_is_there_and_the_other_way_round() {
        let quoted = |text: &'static str, before: &'static str| -> Vec<&'static str> {
            text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).collect()
        };
        let mut named: Vec<&str> = Vec::new();
        for file in &FILES {
            named.extend(quoted(file.text, "\"/console/"));
            named.extend(quoted(file.text, "from \"./"));
        }
        for name in &named {
            assert!(has(name), "{name} is asked for and not built in");
        }
        for file in FILES.iter().filter(|f| !f.name.is_empty()) {
            assert!(named.contains(&file.name), "{} is built in and not asked for", file.name);
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/console");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(has(&name) || ["index.html", "mod.rs"].contains(&&*name), "{name} is not built in");
        }
    }

    /// What the policy forbids would show only in a browser; what names another host, only without a network.
    #[test]
    fn nothing_is_inline_and_nothing_is_elsewhere() {
        for file in &FILES {
            let text = file.text.replace("http://www.w3.org/", "");
            for forbidden in
                ["style=\"", "<style", " onclick", " onload", "javascript:", "//cdn", "@import", "eval("]
            {
                assert!(!text.contains(forbidden), "{}: {forbidden}", file.name);
            }
            assert!(!text.contains("https://"), "{} names another host", file.name);
        }
        let page = FILES[0].text;
        assert!(
            page.split("<script")
                .skip(1)
                .all(|s| s.split('>').next().is_some_and(|tag| tag.contains("src=")))
        );
    }
}
