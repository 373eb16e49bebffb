//! Container logs in the CRI format: `time stream tag content` (kubelet `kuberuntime/logs/logs.go`).

/// One line of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// RFC 3339 with nanoseconds.
    pub time: &'a str,
    /// Whether it came from standard error.
    pub stderr: bool,
    /// The line goes on in the next.
    pub partial: bool,
    /// Without the line break.
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line; `None` when it is not in the format.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(parts.next()?).ok().filter(|t| t.len() >= 20)?;
        let stderr = match parts.next()? {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        let partial = parts.next()?.split(|b| *b == b':').next()? == b"P";
        Some(Self { time, stderr, partial, content: parts.next().unwrap_or_default() })
    }
}
