//! People and purchases made from the files in `examples/data`.

use std::collections::{BTreeMap, BTreeSet};

use crate::demo::people::People;

/// RFC 4180, small: enough to read back what was written.
fn rows(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field, mut quoted) = (vec![], vec![], String::new(), false);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => field.push(letters.next().unwrap()),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            other => field.push(other),
        }
    }
    assert!(
        row.is_empty() && field.is_empty() && !quoted,
        "the file ends with a whole row"
    );
    rows
}

#[test]
fn two_files_become_2357_customers() {
    let people = People::load().unwrap();
    assert_eq!(people.persons.len(), 2357);
    assert_eq!(people.copies.len(), 589);
    assert_eq!(people.purchases.len(), 6919);
    assert_eq!(people.on_site().count(), 1179);

    // `rec-2356-org` and sample id 2357 are the last ones; both are read off the source files.
    let last = people.persons.last().unwrap();
    assert_eq!(last.external_id, "demo:rec-2356");
    let purchase = people.purchases.last().unwrap();
    assert_eq!(purchase.external_id, "demo:rec-2356");
    assert_eq!(
        (
            purchase.order_id.as_str(),
            purchase.date.as_str(),
            purchase.cds,
            purchase.cents
        ),
        ("cdnow-6919", "1997-03-25", 2, 2574)
    );
    // 1321: brinley efthimiou, 35 sturdee crescent, tremearne, scarborough 5211 qld, 19940319.
    let person = &people.persons[1321];
    assert_eq!(person.name(), "Brinley Efthimiou");
    assert_eq!(person.street, "35 Sturdee Crescent");
    assert_eq!(
        (
            person.line2.as_str(),
            person.suburb.as_str(),
            person.postcode.as_str(),
            person.state.as_str()
        ),
        ("Tremearne", "Scarborough", "5211", "QLD")
    );
    assert_eq!(person.born, "1994-03-19");
    assert_eq!(person.email, "brinley.efthimiou.1321@example.com");
    assert_eq!(person.phone, "+61 7 7010 1321");
    assert_eq!(people.persons[643].name(), "Imogen O'Garey");
    assert_eq!(people.persons[21].line2, "Browne's Reef");
}

#[test]
fn nobody_shares_an_address_or_has_a_real_one() {
    let people = People::load().unwrap();
    let (mut emails, mut phones, mut ids) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut mobiles = 0;
    for person in &people.persons {
        assert!(
            emails.insert(&person.email) && phones.insert(&person.phone) && ids.insert(&person.external_id)
        );
        let (local, domain) = person.email.split_once('@').unwrap();
        assert!(matches!(domain, "example.com" | "example.org"));
        assert!(
            local
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'.'),
            "{local}"
        );
        let digits: String = person.phone.chars().filter(|c| !c.is_whitespace()).collect();
        assert_eq!(digits.len(), 12, "{digits}");
        match digits.strip_prefix("+614") {
            Some(_) => mobiles += 1,
            None => assert_eq!(&digits[4..8], "7010"),
        }
    }
    assert_eq!(mobiles, 30);
}

#[test]
fn the_csv_files_say_the_same_on_every_run_and_join() {
    let people = People::load().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = people.write_csv(&folder.path().join("new/folder")).unwrap();
    let first = (
        std::fs::read(&files.people).unwrap(),
        std::fs::read(&files.purchases).unwrap(),
    );
    let files = People::load()
        .unwrap()
        .write_csv(files.people.parent().unwrap())
        .unwrap();
    let text = std::fs::read_to_string(&files.people).unwrap();
    assert_eq!(
        (text.as_bytes(), &std::fs::read(&files.purchases).unwrap()),
        (&first.0[..], &first.1)
    );
    let left: Vec<_> = std::fs::read_dir(files.people.parent().unwrap())
        .unwrap()
        .collect();
    assert_eq!(left.len(), 2, "no unfinished file is left");

    let table = rows(&text);
    assert_eq!(table.len(), 1 + files.people_rows);
    assert_eq!(files.people_rows, 1178 + 589);
    assert!(table.iter().all(|row| row.len() == 12));
    assert_eq!(table[0][3], "email");
    let by_email: BTreeMap<&str, &str> = people
        .persons
        .iter()
        .map(|p| (p.email.as_str(), p.external_id.as_str()))
        .collect();
    let (mut other_spelling, mut on_site) = (0, 0);
    for row in &table[1..] {
        let owner = by_email[row[3].trim().to_lowercase().as_str()];
        if row[0].is_empty() {
            other_spelling += usize::from(!by_email.contains_key(row[3].as_str()));
            on_site += usize::from(!table.iter().any(|row| row[0] == owner));
        } else {
            assert_eq!(row[0], owner);
        }
    }
    assert_eq!(
        other_spelling, 589,
        "every copy spells the address in another way"
    );
    assert!(
        on_site > 200 && on_site < 400,
        "copies of customers from both sources: {on_site}"
    );

    let table = rows(&std::fs::read_to_string(&files.purchases).unwrap());
    assert_eq!(table[0], ["order_id", "external_id", "date", "cds", "dollars"]);
    assert_eq!(table[1], ["cdnow-1", "demo:rec-0", "1997-01-01", "2", "29.33"]);
    assert_eq!(table.len(), 6920);
    assert_eq!(
        table[1..]
            .iter()
            .map(|row| &row[1])
            .collect::<BTreeSet<_>>()
            .len(),
        2357
    );
    let orders: BTreeSet<_> = table[1..].iter().map(|row| &row[0]).collect();
    assert_eq!(orders.len(), 6919);
    let dollars: f64 = table[1..].iter().map(|row| row[4].parse::<f64>().unwrap()).sum();
    assert!(
        (dollars - 244_091.94).abs() < 0.01,
        "the sum over the source file: {dollars}"
    );
}

#[test]
fn an_unreadable_source_is_named_with_its_line() {
    let header = "rec_id, given_name, surname, street_number, address_1, address_2, suburb, postcode, state, \
                  date_of_birth, soc_sec_id\n";
    let person = "rec-0-org, a, b, 1, c, d, e, 2000, nsw, 19900101, 1\n";
    let febrl = format!("{header}{person}");
    let purchase = " 00004 0001 19970101  2   29.33\r\n";
    assert!(People::parse(&febrl, purchase).is_ok());
    let cases = [
        (String::new(), purchase, "FEBRL file: the file is empty"),
        (person.to_owned(), purchase, "FEBRL file: line 1"),
        (
            format!("{febrl}rec-1-org, a\n"),
            purchase,
            "FEBRL file: line 3: 2 fields",
        ),
        (
            format!("{febrl}{person}"),
            purchase,
            "FEBRL file: line 3: rec-0-org is there twice",
        ),
        (
            febrl.replace("rec-0-org", "row-0"),
            purchase,
            "FEBRL file: line 2: rec_id",
        ),
        (febrl.clone(), "", "CDNOW file: the file is empty"),
        (
            febrl.clone(),
            " 00004 0001 19970230  2   29.33",
            "CDNOW file: line 1: the date",
        ),
        (
            febrl.clone(),
            " 00004 0001 19970101  2   29.3",
            "CDNOW file: line 1: the dollars",
        ),
        (
            febrl.clone(),
            " 00004 0001 19970101  x   29.30",
            "CDNOW file: line 1: \"x\"",
        ),
        (
            febrl.clone(),
            " 00004 0000 19970101  2   29.30",
            "CDNOW file: sample ids start at 1",
        ),
        (
            febrl.clone(),
            " 00004 0002 19970101  2   29.30",
            "the CDNOW file has 2 customers",
        ),
    ];
    for (febrl, cdnow, expected) in cases {
        let error = format!("{:#}", People::parse(&febrl, cdnow).err().expect(expected));
        assert!(error.starts_with(expected), "{error}");
    }
}
