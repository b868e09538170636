use super::canonical::relaxed_field;
use super::*;

/// RFC 8463, appendix A: the message, and the key as PKCS#8.
const MESSAGE: &str = "From: Joe SixPack <joe@football.example.com>\r\n\
    To: Suzie Q <suzie@shopping.example.net>\r\n\
    Subject: Is dinner ready?\r\n\
    Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
    Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n\
    Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
const ED25519: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
    -----END PRIVATE KEY-----\n";

fn signer() -> DkimSigner {
    DkimSigner::new(&DkimConfig::new(
        "football.example.com",
        "brisbane",
        Secret::new(ED25519),
    ))
    .unwrap()
}

#[test]
fn the_example_of_rfc_8463() {
    assert_eq!(
        signer().record(),
        "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    );
    let (head, body) = divided(MESSAGE.as_bytes());
    let hash = STANDARD.encode(digest(&SHA256, &relaxed_body(body)).as_ref());
    assert_eq!(hash, "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");
    let header = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; \
        i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : \
        message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=";
    let names = [
        "from",
        "to",
        "subject",
        "date",
        "message-id",
        "from",
        "subject",
        "date",
    ];
    let signed = signer().sign(&to_sign(&fields(head), &names, header)).unwrap();
    assert_eq!(
        STANDARD.encode(signed),
        "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
    );
}

#[test]
fn bodies_in_the_relaxed_form() {
    // RFC 6376, 3.4.5 and 3.4.6, and their edges.
    for (body, canonical) in [
        (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"),
        ("", ""),
        ("\r\n\r\n", ""),
        (" \r\n\t\r\n", ""),
        ("a", "a\r\n"),
        ("a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n"),
        ("\r\na\r\n", "\r\na\r\n"),
    ] {
        assert_eq!(relaxed_body(body.as_bytes()), canonical.as_bytes(), "{body:?}");
    }
    let mut field = Vec::new();
    relaxed_field(&mut field, b"SubJect", b" \t a \r\n\t  b  \r\n");
    assert_eq!(field, b"subject:a b");
}

#[test]
fn from_is_signed_twice_over_and_what_is_missing_is_not_named() {
    let header = signer().signature(MESSAGE.as_bytes(), Timestamp::EPOCH).unwrap();
    let flat = header.replace("\r\n", "").replace(' ', "");
    assert!(
        flat.contains(";h=from:from:to:subject:date:message-id;bh="),
        "{header}"
    );
    assert!(!flat.contains(";l="), "{header}");
    assert!(
        header.ends_with("\r\n") && header.lines().all(|line| line.len() <= 78),
        "{header}"
    );
    assert_eq!(
        signer()
            .signature(b"To: a\r\n\r\nb", Timestamp::EPOCH)
            .unwrap_err()
            .context("field"),
        Some("from")
    );
}

#[test]
fn settings_are_checked_and_the_key_is_not_shown() {
    for (domain, selector, key, setting) in [
        ("shop", "s", ED25519, "dkim.domain"),
        ("shop.example; x", "s", ED25519, "dkim.domain"),
        ("shop.example", "", ED25519, "dkim.selector"),
        ("shop.example", "a b", ED25519, "dkim.selector"),
        ("shop.example", "s", "hunter22", "dkim.key"),
        (
            "shop.example",
            "s",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "dkim.key",
        ),
    ] {
        let error = DkimSigner::new(&DkimConfig::new(domain, selector, Secret::new(key))).unwrap_err();
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some(setting)),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("hunter22"));
    }
    let missing = DkimConfig::from_file("shop.example", "s", "no-such-file.pem");
    assert_eq!(
        DkimSigner::new(&missing).unwrap_err().context("setting"),
        Some("dkim.key_file")
    );
    assert!(!format!("{:?}", signer()).contains("MC4C"));
}

#[test]
fn whom_it_vouches_for() {
    for (domain, vouched) in [
        ("football.example.com", true),
        ("mail.Football.example.com", true),
        ("example.com", false),
        ("notfootball.example.com", false),
    ] {
        assert_eq!(signer().vouches_for(domain), vouched, "{domain}");
    }
}

/// A message signed by dkimpy 1.1.8 with a key of OpenDKIM's: RSA signatures (PKCS #1, 1.5) are always the same, so from the
/// same key and the same header comes the same signature.
#[test]
fn a_signature_of_another_program_comes_out_again() {
    let file = |name: &str| std::fs::read_to_string(format!("tests/data/dkim/{name}")).unwrap();
    let signer = DkimSigner::new(&DkimConfig::new(
        "crm.example",
        "sel",
        Secret::new(file("sel.private.pem")),
    ))
    .unwrap();
    assert_eq!(signer.record_name(), "sel._domainkey.crm.example");
    let published = |record: &str| record.rsplit("p=").next().unwrap().trim().to_owned();
    assert_eq!(
        published(&signer.record()),
        published(&file("sel._domainkey.crm.example.txt"))
    );

    let signed = file("signed.eml").replace("\r\n", "\n").replace('\n', "\r\n");
    let (head, body) = divided(signed.as_bytes());
    let hash = STANDARD.encode(digest(&SHA256, &relaxed_body(body)).as_ref());
    assert_eq!(hash, "VyqV/unA8yADB4nkiDcHr/4SSC+7HqBLPqgmfIeokPs=");
    let all = fields(head);
    let (theirs, others) = all.split_first().unwrap();
    assert!(theirs.is("dkim-signature"));
    let text = signed.split("\r\nFrom:").next().unwrap();
    let (header, signature) = text.split_once("\r\n b=").unwrap();
    let names: Vec<&str> = text
        .split("h=")
        .nth(1)
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .split(':')
        .map(str::trim)
        .collect();
    assert_eq!(names, ["from", "to", "subject", "date", "message-id"]);
    let sign = |others: &[canonical::HeaderField<'_>]| {
        let bytes = to_sign(others, &names, &format!("{header}\r\n b="));
        STANDARD.encode(signer.sign(&bytes).unwrap())
    };
    let theirs: String = signature.split_whitespace().collect();
    assert_eq!(sign(others), theirs);
    // It can come out otherwise.
    let changed = signed.replace("To: alice", "To: alicf");
    assert_ne!(sign(&fields(divided(changed.as_bytes()).0)[1..]), theirs);
}
