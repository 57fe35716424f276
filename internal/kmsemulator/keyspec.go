package kmsemulator

import "slices"

// A keySpec is what KMS lets a kind of key do.
//
// See https://docs.aws.amazon.com/kms/latest/developerguide/symm-asymm-choose-key-spec.html
type keySpec struct {
	name   string
	usages []string

	encryption []string // algorithms for ENCRYPT_DECRYPT
	signing    []string // for SIGN_VERIFY
	mac        []string // for GENERATE_VERIFY_MAC
	agreement  []string // for KEY_AGREEMENT
	capsules   []string // for ENCAPSULATE_DECAPSULATE
}

const (
	encryptDecrypt = "ENCRYPT_DECRYPT"
	signVerify     = "SIGN_VERIFY"
	verifyMac      = "GENERATE_VERIFY_MAC"
	keyAgreement   = "KEY_AGREEMENT"
	encapsulate    = "ENCAPSULATE_DECAPSULATE"
)

func keySpecs() []keySpec {
	specs := []keySpec{{name: symmetric, usages: []string{encryptDecrypt}, encryption: []string{symmetric}}}
	for _, bits := range []string{"2048", "3072", "4096"} {
		specs = append(specs, keySpec{
			name: "RSA_" + bits, usages: []string{encryptDecrypt, signVerify},
			encryption: []string{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"},
			signing: []string{
				"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
				"RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
			},
		})
	}
	for curve, hash := range map[string]string{"P256": "256", "P384": "384", "P521": "512"} {
		specs = append(specs, keySpec{
			name: "ECC_NIST_" + curve, usages: []string{signVerify, keyAgreement},
			signing: []string{"ECDSA_SHA_" + hash}, agreement: []string{"ECDH"},
		})
	}
	for _, bits := range []string{"224", "256", "384", "512"} {
		specs = append(specs, keySpec{name: "HMAC_" + bits, usages: []string{verifyMac}, mac: []string{"HMAC_SHA_" + bits}})
	}
	for _, n := range []string{"44", "65", "87"} {
		specs = append(specs, keySpec{name: "ML_DSA_" + n, usages: []string{signVerify}, signing: []string{"ML_DSA_SHAKE_256"}})
	}
	for _, n := range []string{"512", "768", "1024"} {
		specs = append(specs, keySpec{name: "ML_KEM_" + n, usages: []string{encapsulate}, capsules: []string{"ML_KEM_" + n}})
	}
	return append(
		specs,
		keySpec{name: "ECC_SECG_P256K1", usages: []string{signVerify}, signing: []string{"ECDSA_SHA_256"}},
		keySpec{name: "ECC_NIST_EDWARDS25519", usages: []string{signVerify}, signing: []string{"ED25519_SHA_512", "ED25519_PH_SHA_512"}},
	)
}

func findSpec(name string) (keySpec, bool) {
	specs := keySpecs()
	i := slices.IndexFunc(specs, func(s keySpec) bool { return s.name == name })
	if i < 0 {
		return keySpec{}, false
	}
	return specs[i], true
}

func specNames() []string {
	var names []string
	for _, s := range keySpecs() {
		names = append(names, s.name)
	}
	slices.Sort(names)
	return names
}
