//! When a certificate ends: the one field of it that operators watch and that rustls does not tell.

/// Tag of a SEQUENCE, and of the two kinds of time (X.690, 8.14; X.680, 47 and 46).
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// Tag of the certificate's explicit version, which may be absent.
const VERSION: u8 = 0xa0;

/// `notAfter` of a DER certificate, seconds since 1970 in UTC; `None` where it is not where RFC 5280 (4.1) has it.
#[must_use]
pub fn expiry(der: &[u8]) -> Option<i64> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if *fields.first()? == VERSION {
        fields = element(fields, VERSION)?.1;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        fields = element(fields, *fields.first()?)?.1;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let not_after = element(validity, *validity.first()?)?.1;
    let tag = *not_after.first()?;
    time(element(not_after, tag)?.0, tag)
}

/// The content of the element in front, which must have that tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&short, mut rest) = rest.split_first()?;
    let mut length = usize::from(short);
    if short >= 0x80 {
        let (digits, after) =
            rest.split_at_checked(length - 0x80).filter(|(d, _)| (1..=4).contains(&d.len()))?;
        length = digits.iter().fold(0, |n, d| n << 8 | usize::from(*d));
        rest = after;
    }
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, which is all that RFC 5280 (4.1.2.5) allows.
fn time(text: &[u8], tag: u8) -> Option<i64> {
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_i64, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
    };
    let (year, rest) = match tag {
        UTC_TIME => {
            let (digits, rest) = text.split_at_checked(2)?;
            let year = number(digits)?;
            (if year >= 50 { 1900 + year } else { 2000 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (digits, rest) = text.split_at_checked(4)?;
            (number(digits)?, rest)
        }
        _ => return None,
    };
    let rest = rest.strip_suffix(b"Z").filter(|r| r.len() == 10)?;
    let pair = |i: usize| number(&rest[2 * i..2 * i + 2]);
    let (month, day) = (pair(0).filter(|m| (1..=12).contains(m))?, pair(1).filter(|d| (1..=31).contains(d))?);
    Some(days(year, month, day) * 86_400 + pair(2)? * 3600 + pair(3)? * 60 + pair(4)?)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, in years that begin in March, so that the leap day is
/// the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    // Months from March on have 31, 30, 31, 30, 31 days, again and again: 153 in five.
    let of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let cases: [(&[u8], u8, Option<i64>); 12] = [
            (b"700101000000Z", UTC_TIME, Some(0)),
            (b"500101000000Z", UTC_TIME, Some(-631_152_000)),
            (b"491231235959Z", UTC_TIME, Some(2_524_607_999)),
            (b"20500101000000Z", GENERALIZED_TIME, Some(2_524_608_000)),
            (b"99991231235959Z", GENERALIZED_TIME, Some(253_402_300_799)),
            (b"20000229120000Z", GENERALIZED_TIME, Some(951_825_600)),
            (b"20000301000000Z", GENERALIZED_TIME, Some(951_868_800)),
            (b"7001010000Z", UTC_TIME, None),
            (b"700101000000", UTC_TIME, None),
            (b"700001000000Z", UTC_TIME, None),
            (b"70010100000xZ", UTC_TIME, None),
            (b"700101000000Z", 0x04, None),
        ];
        for (text, tag, want) in cases {
            assert_eq!(time(text, tag), want, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_certificate_tells_when_it_ends_and_no_bytes_make_it_panic() {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        for (year, want) in [(2031, 1_953_936_000), (2075, 3_342_470_400)] {
            parameters.not_after = rcgen::date_time_ymd(year, 12, 2);
            let der = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
            assert_eq!(expiry(&der), Some(want), "{year}");
            for end in 0..der.len() {
                let _ = expiry(&der[..end]);
            }
            for at in 0..der.len().min(400) {
                for bit in 0..8 {
                    let mut spoilt = der.clone();
                    spoilt[at] ^= 1 << bit;
                    let _ = expiry(&spoilt);
                }
            }
        }
        for nonsense in [
            &b""[..],
            &[0x30],
            &[0x30, 0x80],
            &[0x30, 0x85, 1, 1, 1, 1, 1],
            &[0x30, 0x84, 255, 255, 255, 255],
        ] {
            assert_eq!(expiry(nonsense), None, "{nonsense:?}");
        }
    }
}
