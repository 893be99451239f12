//! Published examples: RFC 7515 appendix A, RFC 7520 §4, RFC 8037 appendix A.4. Each is verified by the key
//! published with it, and by it alone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, json};

use super::support::NOW;
use crate::auth::key::{Key, KeySet};
use crate::auth::token::{self, Token};
use crate::auth::{Refusal, documents};

/// `{"iss":"joe", "exp":1300819380, "http://example.com/is_root":true}`, with line breaks.
const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
/// "It’s a dangerous business, Frodo, going out your door. …"
const FRODO: &str = "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4";

const A2_MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const BILBO_MODULUS: &str = "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw";

struct Vector {
    name: &'static str,
    algorithm: Algorithm,
    header: &'static str,
    payload: &'static str,
    signature: &'static str,
    keys: Vec<Key>,
}

fn published(mut jwk: serde_json::Value, kid: &str) -> Vec<Key> {
    jwk["kid"] = kid.into();
    let set = json!({"keys": [jwk]}).to_string();
    let keys = documents::jwks(set.as_bytes()).unwrap();
    assert_eq!(keys.len(), 1);
    keys
}

fn secret(text: &str) -> Vec<Key> {
    let secret = URL_SAFE_NO_PAD.decode(text).unwrap();
    vec![Key::secret(&secret, Algorithm::HS256)]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn vectors() -> Vec<Vector> {
    let bilbo = "bilbo.baggins@hobbiton.example";
    vec![
        Vector {
            name: "RFC 7515 A.1",
            algorithm: Algorithm::HS256,
            header: "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            payload: JOE,
            signature: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            keys: secret(
                "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
            ),
        },
        Vector {
            name: "RFC 7515 A.2",
            algorithm: Algorithm::RS256,
            header: "eyJhbGciOiJSUzI1NiJ9",
            payload: JOE,
            signature: "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
            keys: published(json!({"kty": "RSA", "n": A2_MODULUS, "e": "AQAB"}), "x"),
        },
        Vector {
            name: "RFC 7515 A.3",
            algorithm: Algorithm::ES256,
            header: "eyJhbGciOiJFUzI1NiJ9",
            payload: JOE,
            signature: "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            keys: published(
                json!({
                    "kty": "EC", "crv": "P-256",
                    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
                }),
                "x",
            ),
        },
        Vector {
            name: "RFC 7520 §4.1",
            algorithm: Algorithm::RS256,
            header: "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9",
            payload: FRODO,
            signature: "MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg",
            keys: published(
                json!({"kty": "RSA", "use": "sig", "n": BILBO_MODULUS, "e": "AQAB"}),
                bilbo,
            ),
        },
        Vector {
            name: "RFC 7520 §4.2",
            algorithm: Algorithm::PS384,
            header: "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9",
            payload: FRODO,
            signature: "cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw",
            keys: published(
                json!({"kty": "RSA", "use": "sig", "n": BILBO_MODULUS, "e": "AQAB"}),
                bilbo,
            ),
        },
        Vector {
            name: "RFC 7520 §4.4",
            algorithm: Algorithm::HS256,
            header: "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9",
            payload: FRODO,
            signature: "s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0",
            keys: secret("hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg"),
        },
        Vector {
            name: "RFC 8037 A.4",
            algorithm: Algorithm::EdDSA,
            header: "eyJhbGciOiJFZERTQSJ9",
            payload: "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            signature: "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            keys: published(
                json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
                "x",
            ),
        },
    ]
}

#[test]
fn published_signatures_are_verified_by_their_own_keys_alone() {
    let vectors = vectors();
    for vector in &vectors {
        let message = format!("{}.{}", vector.header, vector.payload);
        let mut token = Token {
            message: message.as_bytes(),
            signature: URL_SAFE_NO_PAD.decode(vector.signature).unwrap(),
            algorithm: vector.algorithm,
            kid: None,
            claims: Map::new(),
        };
        for other in &vectors {
            let verified = KeySet(other.keys.clone()).verify(&token, NOW).is_ok();
            let same = vector.name == other.name
                || (vector.name.contains("7520 §4.1") && other.name.contains("7520 §4.2"))
                || (vector.name.contains("7520 §4.2") && other.name.contains("7520 §4.1"));
            assert_eq!(
                verified, same,
                "{} by the key of {}",
                vector.name, other.name
            );
        }
        token.signature[0] ^= 1;
        let outcome = KeySet(vector.keys.clone()).verify(&token, NOW);
        assert_eq!(outcome, Err(Refusal::BadSignature), "{}", vector.name);
    }
}

#[test]
fn published_headers_are_read() {
    for vector in vectors() {
        // Where the payload is a text and no claims, `{}` in its place.
        let payload = if vector.payload == JOE { JOE } else { "e30" };
        let text = format!("{}.{payload}.{}", vector.header, vector.signature);
        let token = token::read(&text).unwrap();
        assert_eq!(token.algorithm, vector.algorithm, "{}", vector.name);
        let named = vector.header.contains("ImtpZCI6");
        assert_eq!(token.kid.is_some(), named, "{}", vector.name);
    }
    // RFC 7515 A.4 (ES512) and A.5 (none).
    for header in ["eyJhbGciOiJFUzUxMiJ9", "eyJhbGciOiJub25lIn0"] {
        let outcome = token::read(&format!("{header}.{JOE}.")).map(|_| ());
        assert_eq!(outcome, Err(Refusal::WrongAlgorithm));
    }
}
