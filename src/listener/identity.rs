//! Checks that a private key belongs to a certificate chain, and says in words why not.
//!
//! Used both by the configuration check and when files are loaded, so what `check` accepts can be
//! served.

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};

/// Which of the two is unusable, and why.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The certificate.
    Certificate(String),
    /// The key.
    Key(String),
}

/// Both together, if the key belongs to the chain's first certificate.
pub fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Unfit> {
    let key = provider.key_provider.load_private_key(key).map_err(|_| {
        let kinds = "RSA of 2048 bits and more, ECDSA on P-256, P-384 or P-521, and Ed25519 are";
        Unfit::Key(format!("its kind of key is not supported: {kinds}"))
    })?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        // A key that does not reveal its public half is trusted.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(pair)
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(Unfit::Key("it is not the key of the certificate".to_owned()))
        }
        Err(error) => {
            Err(Unfit::Certificate(format!("it is no X.509 version 3 certificate ({error})")))
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer};

    use super::*;

    fn key_of(pair: &KeyPair) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(pair.serialize_der()).into()
    }

    fn judged(chain: &CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Option<Unfit> {
        identity(vec![chain.clone()], key, &aws_lc_rs::default_provider()).err()
    }

    #[test]
    fn a_certificate_goes_with_its_own_key_alone() {
        let (own, foreign) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let params = CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&own).unwrap().der().clone();
        assert_eq!(judged(&certificate, key_of(&own)), None);
        let reason = "it is not the key of the certificate".to_owned();
        assert_eq!(judged(&certificate, key_of(&foreign)), Some(Unfit::Key(reason)));
        let broken = CertificateDer::from(b"broken".to_vec());
        assert!(matches!(judged(&broken, key_of(&own)), Some(Unfit::Certificate(_))));
        let broken = PrivatePkcs8KeyDer::from(b"broken".to_vec()).into();
        assert!(matches!(judged(&certificate, broken), Some(Unfit::Key(_))));
    }
}
