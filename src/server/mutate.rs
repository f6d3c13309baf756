//! Bodies as strangers send them, for tests of parsers: seeded mutations of a valid one.

/// Calls `check` with `rounds` mutations of `valid`, the same ones on every run.
pub(super) fn mutations(valid: &[u8], rounds: usize, mut check: impl FnMut(&[u8])) {
    const TOKENS: &[&[u8]] = &[
        b"\"", b"{", b"}", b"[", b"]", b",", b":", b"null", b"-1", b"1e9", b"\\u0000", b"\r\n", b"--",
        b"\xff", b"=",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |n: usize| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n.max(1) as u64) as usize
    };
    for _ in 0..rounds {
        let mut body = valid.to_vec();
        for _ in 0..=below(4) {
            let at = below(body.len());
            match below(6) {
                0 => body.truncate(at),
                1 if !body.is_empty() => body[at] = below(256) as u8,
                2 if !body.is_empty() => body[at] ^= 1 << below(8),
                3 => {
                    let token = TOKENS[below(TOKENS.len())];
                    body.splice(at..at, token.iter().copied());
                }
                4 => {
                    let end = (at + below(16)).min(body.len());
                    body.drain(at..end);
                }
                _ => {
                    let end = (at + below(32)).min(body.len());
                    let copy = body[at..end].to_vec();
                    let to = below(body.len());
                    body.splice(to..to, copy);
                }
            }
        }
        check(&body);
    }
}
