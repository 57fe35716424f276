package kmsemulator

import "crypto/rand"

const (
	symmetric = "SYMMETRIC_DEFAULT"

	maxPlaintext  = 4096
	maxCiphertext = 6144
	maxDataKey    = 1024
)

func encryptionAlgorithms() []string {
	return []string{symmetric, "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE"}
}

// cryptoKey goes through the checks that all cryptographic operations share:
// permission, grant tokens, state, usage, algorithm.
func (c *call) cryptoKey(k *key, permission string, tokens []string, algorithm *string) (*line, error) {
	if err := c.allowed(k, permission); err != nil {
		return nil, err
	}
	if err := granted(tokens); err != nil {
		return nil, err
	}
	if err := usable(k); err != nil {
		return nil, err
	}
	l := c.line(k)
	if l.usage != "ENCRYPT_DECRYPT" {
		return nil, refuse("InvalidKeyUsageException", "%s key usage is %s which is not valid for %s.", k.arn, l.usage, c.operation)
	}
	name := symmetric
	if algorithm != nil {
		name = *algorithm
	}
	if name != symmetric || l.spec != symmetric {
		if l.spec != symmetric && name != symmetric {
			return nil, unsupported("This emulator has no asymmetric cryptography.")
		}
		return nil, refuse("InvalidKeyUsageException", "Algorithm %s is incompatible with key spec %s.", name, l.spec)
	}
	return l, nil
}

// granted refuses every grant token: there is no CreateGrant here, so none can be a
// good one.
func granted(tokens []string) error {
	if len(tokens) > 0 {
		return refuse("InvalidGrantTokenException", "Invalid grant token")
	}
	return nil
}

func dryRun(asked *bool) error {
	if asked != nil && *asked {
		return refuse("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
	}
	return nil
}

// ciphertext checks a blob. It returns true where there need be none, because a
// dry run asks for permissions alone.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html
func (c *checks) ciphertext(b []byte, dry *bool, modifiers []string) (blind bool) {
	for i := range modifiers {
		c.enum("dryRunModifiers", &modifiers[i], "IGNORE_CIPHERTEXT")
	}
	blind = dry != nil && *dry && len(modifiers) > 0
	if blind || c.required("ciphertextBlob", b != nil) {
		c.blob("ciphertextBlob", b, maxCiphertext)
	}
	return blind
}

// modified refuses modifiers of a dry run where none was asked for.
func modified(dry *bool, modifiers []string) error {
	if len(modifiers) > 0 && (dry == nil || !*dry) {
		return invalid("DryRunModifiers can only be specified when DryRun is true.")
	}
	return nil
}

func noEnclave(recipient params) error {
	if recipient != nil {
		return unsupported("This emulator has no attestation of enclaves.")
	}
	return nil
}

func encrypt(c *call) (any, error) {
	var in struct {
		KeyId               *string
		Plaintext           []byte
		EncryptionAlgorithm *string
		EncryptionContext   map[string]string
		GrantTokens         []string
		DryRun              *bool
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	if ch.required("plaintext", in.Plaintext != nil) {
		ch.secret("plaintext", in.Plaintext, maxPlaintext)
	}
	ch.enum("encryptionAlgorithm", in.EncryptionAlgorithm, encryptionAlgorithms()...)
	ch.grantTokens(in.GrantTokens)
	if err := ch.err(); err != nil {
		return nil, err
	}
	k, err := c.anyKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	l, err := c.cryptoKey(k, "Encrypt", in.GrantTokens, in.EncryptionAlgorithm)
	if err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	c.used(k)
	return struct {
		CiphertextBlob      []byte
		EncryptionAlgorithm string
		KeyId               string
	}{l.current().seal(in.Plaintext, in.EncryptionContext), symmetric, k.arn}, nil
}

func decrypt(c *call) (any, error) {
	var in struct {
		CiphertextBlob      []byte
		EncryptionAlgorithm *string
		EncryptionContext   map[string]string
		GrantTokens         []string
		KeyId               *string
		DryRun              *bool
		DryRunModifiers     []string
		Recipient           params
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	blind := ch.ciphertext(in.CiphertextBlob, in.DryRun, in.DryRunModifiers)
	ch.text("keyId", in.KeyId, 1, 2048)
	ch.enum("encryptionAlgorithm", in.EncryptionAlgorithm, encryptionAlgorithms()...)
	ch.grantTokens(in.GrantTokens)
	if err := ch.err(); err != nil {
		return nil, err
	}
	if err := modified(in.DryRun, in.DryRunModifiers); err != nil {
		return nil, err
	}
	if err := noEnclave(in.Recipient); err != nil {
		return nil, err
	}
	o, err := c.open(opening{
		permission: "Decrypt", member: "KeyId", blind: blind, keyID: in.KeyId, blob: in.CiphertextBlob, context: in.EncryptionContext,
		tokens: in.GrantTokens, algorithm: in.EncryptionAlgorithm,
	})
	if err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	c.used(o.key)
	return struct {
		EncryptionAlgorithm string
		KeyId               string
		KeyMaterialId       string
		Plaintext           []byte
	}{symmetric, o.key.arn, o.material.id, o.plaintext}, nil
}

// An opening is what it takes to decrypt a blob.
type opening struct {
	permission string
	member     string  // that names the key
	blind      bool    // only ask whether it may be done; needs a key
	keyID      *string // nil: whichever key the blob names
	blob       []byte
	context    map[string]string
	tokens     []string
	algorithm  *string
}

// opened is a decrypted blob.
type opened struct {
	key       *key
	material  *material
	plaintext []byte
}

// open decrypts for Decrypt and for the first half of ReEncrypt.
func (c *call) open(o opening) (opened, error) {
	var pinned *key
	if o.keyID != nil {
		var err error
		if pinned, err = c.anyKey(*o.keyID); err != nil {
			return opened{}, err
		}
		if err := c.allowed(pinned, o.permission); err != nil {
			return opened{}, err
		}
	}
	if o.blind {
		if pinned == nil {
			return opened{}, invalid("%s is required when DryRunModifiers is IGNORE_CIPHERTEXT.", o.member)
		}
		if c.options.BlindDryRun { // the permission is checked above
			return opened{key: pinned, material: &material{}}, granted(o.tokens)
		}
		_, err := c.cryptoKey(pinned, o.permission, o.tokens, o.algorithm)
		return opened{key: pinned, material: &material{}}, err
	}
	b, err := parseBlob(o.blob)
	if err != nil {
		return opened{}, badCiphertext()
	}
	k, m, err := c.keyOf(b, pinned)
	if err != nil {
		return opened{}, err
	}
	if _, err := c.cryptoKey(k, o.permission, o.tokens, o.algorithm); err != nil {
		return opened{}, err
	}
	plaintext, err := m.open(b, o.context)
	if err != nil {
		return opened{}, badCiphertext()
	}
	return opened{key: k, material: m, plaintext: plaintext}, nil
}

// keyOf finds the key and the material that a blob names; the material is
// known at once wherever the key is. A pinned key must be the one.
func (c *call) keyOf(b blob, pinned *key) (*key, *material, error) {
	m := c.store.latest.Load().handles[b.handle]
	switch {
	case pinned != nil && (m == nil || m.keyID != pinned.ref.id):
		return nil, nil, wrongKey()
	case pinned != nil:
		return pinned, m, nil
	case m == nil:
		return nil, nil, deniedBlob()
	}
	k := c.key(keyRef{c.region, m.keyID})
	if k == nil {
		return nil, nil, deniedBlob()
	}
	return k, m, nil
}

// A dataKey is a generated key, in plaintext and wrapped.
type dataKey struct {
	CiphertextBlob []byte
	KeyId          string
	KeyMaterialId  string
	Plaintext      []byte `json:",omitempty"`
}

func generateDataKey(c *call) (any, error) { return c.dataKey() }

func generateDataKeyWithoutPlaintext(c *call) (any, error) {
	out, err := c.dataKey()
	if err != nil {
		return nil, err
	}
	out.Plaintext = nil
	return out, nil
}

func (c *call) dataKey() (*dataKey, error) {
	var in struct {
		KeyId             *string
		KeySpec           *string
		NumberOfBytes     *int32
		EncryptionContext map[string]string
		GrantTokens       []string
		DryRun            *bool
		Recipient         params
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	ch.enum("keySpec", in.KeySpec, "AES_256", "AES_128")
	ch.number("numberOfBytes", in.NumberOfBytes, 1, maxDataKey)
	ch.grantTokens(in.GrantTokens)
	if err := ch.err(); err != nil {
		return nil, err
	}
	if (in.KeySpec == nil) == (in.NumberOfBytes == nil) {
		return nil, invalid("Please specify either number of bytes or key spec.")
	}
	if err := noEnclave(in.Recipient); err != nil {
		return nil, err
	}
	k, err := c.anyKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	l, err := c.cryptoKey(k, c.operation, in.GrantTokens, nil)
	if err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	plaintext := make([]byte, dataKeyLen(in.KeySpec, in.NumberOfBytes))
	_, _ = rand.Read(plaintext)
	m := l.current()
	c.used(k)
	return &dataKey{m.seal(plaintext, in.EncryptionContext), k.arn, m.id, plaintext}, nil
}

func dataKeyLen(spec *string, bytes *int32) int32 {
	switch {
	case bytes != nil:
		return *bytes
	case *spec == "AES_128":
		return 16
	default:
		return 32
	}
}

func reEncrypt(c *call) (any, error) {
	var in struct {
		CiphertextBlob                 []byte
		DestinationEncryptionAlgorithm *string
		DestinationEncryptionContext   map[string]string
		DestinationKeyId               *string
		SourceEncryptionAlgorithm      *string
		SourceEncryptionContext        map[string]string
		SourceKeyId                    *string
		GrantTokens                    []string
		DryRun                         *bool
		DryRunModifiers                []string
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	blind := ch.ciphertext(in.CiphertextBlob, in.DryRun, in.DryRunModifiers)
	ch.text("sourceKeyId", in.SourceKeyId, 1, 2048)
	ch.keyID("destinationKeyId", in.DestinationKeyId)
	ch.enum("sourceEncryptionAlgorithm", in.SourceEncryptionAlgorithm, encryptionAlgorithms()...)
	ch.enum("destinationEncryptionAlgorithm", in.DestinationEncryptionAlgorithm, encryptionAlgorithms()...)
	ch.grantTokens(in.GrantTokens)
	if err := ch.err(); err != nil {
		return nil, err
	}
	if err := modified(in.DryRun, in.DryRunModifiers); err != nil {
		return nil, err
	}
	to, err := c.anyKey(*in.DestinationKeyId)
	if err != nil {
		return nil, err
	}
	from, err := c.open(opening{
		permission: "ReEncryptFrom", member: "SourceKeyId", blind: blind, keyID: in.SourceKeyId, blob: in.CiphertextBlob, context: in.SourceEncryptionContext,
		tokens: in.GrantTokens, algorithm: in.SourceEncryptionAlgorithm,
	})
	if err != nil {
		return nil, err
	}
	l, err := c.cryptoKey(to, "ReEncryptTo", in.GrantTokens, in.DestinationEncryptionAlgorithm)
	if err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	m := l.current()
	c.used(from.key)
	c.used(to)
	return struct {
		CiphertextBlob                 []byte
		DestinationEncryptionAlgorithm string
		DestinationKeyMaterialId       string
		KeyId                          string
		SourceEncryptionAlgorithm      string
		SourceKeyId                    string
		SourceKeyMaterialId            string
	}{
		m.seal(from.plaintext, in.DestinationEncryptionContext), symmetric, m.id, to.arn,
		symmetric, from.key.arn, from.material.id,
	}, nil
}
