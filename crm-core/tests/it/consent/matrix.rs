//! Every class, basis, channel and state of a consent: what goes out, said again in words of its own.

use crm_core::Clock as _;
use crm_core::consent::{Ask, ConsentAction, LegalBasis, Purpose, PurposeClass, Verdict};
use crm_core::message::Channel;

use super::world::{World, email, evidence, phone};

/// What was said before the message, the oldest first; `Other` and `Own` name the channel it was said about.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Said {
    All(ConsentAction),
    Own(ConsentAction),
    Other(ConsentAction),
    /// Agreed on the ground of a legitimate interest.
    Interest,
    /// Agreed on the ground of a contract.
    Contract,
    /// Agreed, for a time that is over.
    Expired,
}

use ConsentAction::{Confirmed, Granted, Imported, Objected, Withdrawn};
use Said::{All, Contract, Expired, Interest, Other, Own};

/// What was said, and whether that is a yes: to consent, to a legitimate interest, confirmed; and whether it is a no.
struct Case {
    said: &'static [Said],
    consent: bool,
    interest: bool,
    confirmed: bool,
    refused: bool,
}

const fn case(said: &'static [Said], consent: bool, interest: bool, confirmed: bool, refused: bool) -> Case {
    Case {
        said,
        consent,
        interest,
        confirmed,
        refused,
    }
}

static CASES: &[Case] = &[
    case(&[], false, false, false, false),
    case(&[All(Granted)], true, true, false, false),
    case(&[All(Imported)], true, true, false, false),
    case(&[All(Confirmed)], true, true, true, false),
    case(&[All(Granted), All(Confirmed)], true, true, true, false),
    case(&[Own(Granted)], true, true, false, false),
    case(&[Own(Confirmed)], true, true, true, false),
    case(&[Other(Granted)], false, false, false, false),
    case(&[Other(Confirmed)], false, false, false, false),
    case(&[Interest], false, true, false, false),
    case(&[Contract], false, false, false, false),
    case(&[Expired], false, false, false, false),
    case(&[All(Withdrawn)], false, false, false, true),
    case(&[All(Objected)], false, false, false, true),
    case(&[Own(Objected)], false, false, false, true),
    case(&[Other(Objected)], false, false, false, false),
    case(&[All(Granted), All(Withdrawn)], false, false, false, true),
    case(&[All(Confirmed), Own(Withdrawn)], false, false, false, true),
    case(&[All(Confirmed), Other(Withdrawn)], true, true, true, false),
    case(&[Interest, All(Objected)], false, false, false, true),
    case(&[All(Withdrawn), Own(Granted)], true, true, false, false),
    case(&[All(Withdrawn), Other(Granted)], false, false, false, true),
    case(
        &[All(Confirmed), All(Withdrawn), All(Granted)],
        true,
        true,
        false,
        false,
    ),
];

/// The rule in words of its own: marketing needs a yes on a ground the purpose has; what rests on consent needs a
/// consent; a legitimate interest yields to a no; contract and law ask nobody.
fn may(class: PurposeClass, basis: LegalBasis, confirm: bool, case: &Case) -> bool {
    let yes = if confirm {
        case.confirmed
    } else if basis == LegalBasis::LegitimateInterest {
        case.interest
    } else {
        case.consent
    };
    match (class, basis) {
        (PurposeClass::Marketing, _) | (_, LegalBasis::Consent) => yes,
        (PurposeClass::Transactional, LegalBasis::LegitimateInterest) => !case.refused,
        (PurposeClass::Transactional, LegalBasis::Contract | LegalBasis::LegalObligation) => true,
    }
}

#[tokio::test]
async fn every_class_basis_channel_and_state() {
    let w = World::new().await;
    let mut asks: Vec<Ask> = Vec::new();
    let mut expected = Vec::new();
    let mut purposes = Vec::new();
    for class in [PurposeClass::Transactional, PurposeClass::Marketing] {
        for basis in LegalBasis::ALL {
            for confirm in [false, true] {
                let name = format!("p{}", purposes.len());
                let mut purpose = Purpose::new(&name, class, basis).unwrap();
                purpose.double_opt_in = confirm;
                purposes.push(purpose);
            }
        }
    }
    let mut events = Vec::new();
    let mut person = 0;
    for purpose in &purposes {
        for channel in Channel::ALL {
            for case in CASES {
                person += 1;
                let address = match channel {
                    Channel::Email => email(&format!("p{person}@example.org")),
                    _ => phone(&format!("+120255{:05}", 20_000 + person)),
                };
                let customer = w.customer(&[&address]).await;
                let other = match channel {
                    Channel::Email if says_other(case) => continue, // nothing else reaches an e-mail address
                    Channel::Email => channel,
                    Channel::Sms => Channel::Voice,
                    Channel::Voice => Channel::Sms,
                };
                for (i, said) in case.said.iter().enumerate() {
                    let make = |action| {
                        w.gate
                            .event(customer, &address, purpose, action, evidence())
                            .unwrap()
                    };
                    let event = match said {
                        All(action) => make(*action),
                        Own(action) => make(*action).by(channel),
                        Other(action) => make(*action).by(other),
                        Interest => make(Granted).on(LegalBasis::LegitimateInterest),
                        Contract => make(Granted).on(LegalBasis::Contract),
                        Expired => make(Granted).until(w.clock.now()),
                    };
                    let ago = u64::try_from(case.said.len() - i).unwrap();
                    let at = w.clock.now().minus(std::time::Duration::from_secs(ago));
                    events.push(event.said_at(at));
                }
                let message = w.message(&address, channel);
                asks.push(Ask::new(message, purpose.clone(), customer));
                let allowed = may(purpose.class, purpose.legal_basis, purpose.double_opt_in, case);
                expected.push((allowed, purpose.clone(), channel, case.said));
            }
        }
    }
    w.gate.record(&w.ctx, &events).await.unwrap();
    let verdicts = w.gate.permit_all(&w.ctx, asks).await.unwrap();
    assert!(verdicts.len() > 900, "{}", verdicts.len());
    let mut sent = 0;
    for (verdict, (allowed, purpose, channel, said)) in verdicts.iter().zip(&expected) {
        let went = matches!(verdict, Verdict::Go { .. });
        sent += usize::from(went);
        let why = verdict.decision();
        assert_eq!(went, *allowed, "{purpose:?} by {channel} after {said:?}:\n{why}");
        assert!(went || why.rule() == "consent", "{why}");
    }
    assert!(
        sent > 200 && sent < verdicts.len() - 200,
        "both answers are there: {sent}"
    );
}

fn says_other(case: &Case) -> bool {
    case.said.iter().any(|said| matches!(said, Other(_)))
}
