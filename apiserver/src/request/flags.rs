//! `/debug/flags`: what may be set while the server runs (`server/routes/flags.go`). `v` is klog's verbosity, as upstream's; `log` takes levels
//! per part: `info,coracle_apiserver::audit=debug`.

use http::{Method, StatusCode};

use crate::{
    verbs::Call,
    wire::{Answer, Body, answer},
};

/// Who changes the levels of the log.
pub trait LogLevels: Send + Sync {
    /// Levels: one for all, or per part.
    fn set(&self, levels: &str) -> Result<(), String>;
    /// As `--v`.
    fn verbosity(&self, verbosity: i32) -> Result<(), String>;
    /// What they are.
    fn now(&self) -> String;
}

const INDEX: &str = "<html>\n<head>\n<title>/debug/flags/</title>\n</head>\n<body>\n/debug/flags/<br>\n<br>\nflags:<br>\n<table>\n<tr>v<br>\n<tr>log<br>\n</table>\n<br>\nfull flags configurable<br>\n</body>\n</html>\n";

/// Answers `/debug/flags/FLAG`.
pub(super) fn answer(levels: Option<&dyn LogLevels>, call: &Call, flag: &str) -> Answer {
    let value = String::from_utf8_lossy(&call.body);
    match (flag, levels, &call.method) {
        (_, None, _) => answer::not_found(),
        ("v", Some(levels), &Method::PUT) => match value.parse::<i32>() {
            Ok(verbosity) => said(levels.verbosity(verbosity), format!("successfully set klog.logging.verbosity to {value}")),
            Err(_) => {
                let why = format!("failed set klog.logging.verbosity {value}: strconv.ParseInt: parsing {value:?}: invalid syntax");
                plain(StatusCode::BAD_REQUEST, why)
            }
        },
        ("log", Some(levels), &Method::PUT) => said(levels.set(&value), format!("successfully set log to {value}")),
        ("log", Some(levels), &Method::GET) => plain(StatusCode::OK, levels.now()),
        ("v" | "log", ..) => plain(StatusCode::NOT_ACCEPTABLE, "unsupported http method".to_owned()),
        _ => answer::bytes(StatusCode::OK, "text/html; charset=utf-8", Body::full(INDEX)),
    }
}

fn said(done: Result<(), String>, text: String) -> Answer {
    match done {
        Ok(()) => plain(StatusCode::OK, text),
        Err(why) => plain(StatusCode::BAD_REQUEST, why),
    }
}

fn plain(code: StatusCode, mut text: String) -> Answer {
    text.push('\n');
    let mut made = answer::text(code, text);
    made.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    made
}
