use super::*;

fn issuer(toml: &str) -> Config {
    let text = format!("[[issuers]]\n{toml}");
    runtime::config::Layers::new()
        .text("test", &text)
        .load(|_: &Config| vec![])
        .unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn a_providers_name_stands_for_issuer_and_keys() {
    let google =
        "https://www.googleapis.com/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com";
    for (toml, name, audience, url) in [
        (
            r#"firebase = "my-app""#,
            "https://securetoken.google.com/my-app",
            "my-app",
            google,
        ),
        (
            r#"cognito = { region = "eu-west-1", user_pool = "eu-west-1_AbC" }
            audience = "client""#,
            "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbC",
            "client",
            "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbC/.well-known/jwks.json",
        ),
        (
            r#"auth0 = "tenant.eu.auth0.com"
            audience = ["https://api", "other"]"#,
            "https://tenant.eu.auth0.com/",
            "https://api,other",
            "https://tenant.eu.auth0.com/.well-known/jwks.json",
        ),
        (
            r#"keycloak = { url = "https://sso.example.com/", realm = "main" }
            audience = "sumu""#,
            "https://sso.example.com/realms/main",
            "sumu",
            "https://sso.example.com/realms/main/protocol/openid-connect/certs",
        ),
        (
            r#"issuer = "https://id.example.com/tenant/"
            any_audience = true"#,
            "https://id.example.com/tenant/",
            "",
            "https://id.example.com/tenant/.well-known/openid-configuration",
        ),
        (
            r#"keycloak = { url = "https://sso.example.com", realm = "main" }
            jwks_url = "https://inner.example.com/certs"
            audience = "sumu""#,
            "https://sso.example.com/realms/main",
            "sumu",
            "https://inner.example.com/certs",
        ),
    ] {
        let trusted = issuer(toml)
            .trusted()
            .unwrap_or_else(|faults| panic!("{faults:?}"));
        let [one] = &trusted[..] else {
            panic!("{toml}")
        };
        assert_eq!(one.rules.issuer.as_deref(), Some(name));
        assert_eq!(one.rules.audience.join(","), audience);
        let remote = one.remote.as_ref().expect(toml);
        assert!(format!("{remote:?}").contains("Url"), "{remote:?}");
        assert_eq!(remote.url().as_str(), url);
    }
}

#[test]
fn what_is_wrong_with_an_issuer_is_told() {
    for (toml, told) in [
        ("", "issuers[0].issuer: needed"),
        (
            r#"issuer = "https://id.example.com""#,
            "issuers[0].audience: needed",
        ),
        (
            "issuer = \"http://id.example.com\"\nany_audience = true",
            "issuers[0].issuer: must begin with https://",
        ),
        (
            "issuer = \"x\"\njwks_url = \"ftp://x/\"",
            "issuers[0].jwks_url: must begin with https://",
        ),
        (
            "issuer = \"x\"\njwks_url = \"https://a/\"\nx509_url = \"https://a/\"",
            "issuers[0].x509_url: not with jwks_url",
        ),
        ("firebase = \"a/b\"", "issuers[0].firebase: has letters"),
        (
            "auth0 = \"https://tenant.auth0.com\"",
            "issuers[0].auth0: has letters",
        ),
        ("firebase = \"a\"\nauth0 = \"b\"", "one provider, please"),
        (
            "issuer = \"x\"\nsecret = \"short\"",
            "issuers[0].secret: must have 32 bytes",
        ),
        (
            "issuer = \"x\"\nsecret = \"\"",
            "issuers[0].secret: must not be empty",
        ),
        (
            "issuer = \"x\"\nsecret = \"a secret of just more than 32 bytes\"\nsecret_algorithm = \"HS512\"",
            "issuers[0].secret: must have 64 bytes",
        ),
        (
            "issuer = \"x\"\nsecret = \"a secret of just more than 32 bytes\"\nsecret_algorithm = \"RS256\"",
            "issuers[0].secret_algorithm: must be HS256",
        ),
        (
            "issuer = \"x\"\npublic_keys = [{ kid = \"a\", pem = \"/nowhere.pem\" }]",
            "issuers[0].public_keys[0]: reading",
        ),
        (
            "issuer = \"x\"\nsecret = \"a secret of just more than 32 bytes\"\n[[issuers]]\nissuer = \"x\"\nsecret = \"a secret of just more than 32 bytes\"",
            "x is there twice",
        ),
        (
            "[fetch]\ncooldown = \"0s\"\nrefresh_min = \"2h\"",
            "fetch.cooldown: must not be 0",
        ),
        (
            "[fetch]\nrefresh_min = \"2h\"",
            "fetch.refresh_min: must not exceed",
        ),
        (
            "[fetch]\nca_file = \"/nowhere.pem\"",
            "fetch.ca_file: reading /nowhere.pem",
        ),
        (
            "[fetch]\nretry_min = \"2h\"",
            "fetch.retry_min: must not exceed",
        ),
    ] {
        let faults = issuer(toml).faults().join("\n");
        assert!(faults.contains(told), "{told} is not in\n{faults}");
    }
}

#[test]
fn issuers_are_printed_without_their_secrets() {
    let config = issuer(
        "issuer = \"x\"\nsecret = \"a secret of just more than 32 bytes\"\npublic_keys = [\"a.pem\", { kid = \"b\", pem = \"c.pem\" }]",
    );
    let printed = runtime::config::to_toml(&config);
    assert!(
        printed.contains(r#"kid = "b""#) && printed.contains("<redacted>"),
        "{printed}"
    );
    assert!(!printed.contains("just more"), "{printed}");
}

#[test]
fn issuers_come_from_a_variable_too() {
    let value = r#"[{firebase="my-app"}, {auth0="t.eu.auth0.com", audience=["a", "b"]}]"#;
    let config = runtime::config::Layers::new()
        .environment([("SUMU__ISSUERS".into(), value.into())], &[])
        .load(Config::faults)
        .unwrap();
    let trusted = config.trusted().unwrap();
    let names: Vec<_> = trusted
        .iter()
        .map(|one| one.rules.issuer.as_deref().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "https://securetoken.google.com/my-app",
            "https://t.eu.auth0.com/"
        ]
    );
}
