package kmsemulator

import "strconv"

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

// keyMetadata is what CreateKey, DescribeKey and ReplicateKey say of a key.
type keyMetadata struct {
	AWSAccountId                string
	Arn                         string
	CreationDate                *seconds
	CurrentKeyMaterialId        string `json:",omitempty"`
	CustomerMasterKeySpec       string
	DeletionDate                *seconds `json:",omitempty"`
	Description                 string
	Enabled                     bool
	EncapsulationAlgorithms     []string `json:",omitempty"`
	EncryptionAlgorithms        []string `json:",omitempty"`
	KeyAgreementAlgorithms      []string `json:",omitempty"`
	KeyId                       string
	KeyManager                  string
	KeySpec                     string
	KeyState                    string
	KeyUsage                    string
	MacAlgorithms               []string `json:",omitempty"`
	MultiRegion                 bool
	MultiRegionConfiguration    *multiRegion `json:",omitempty"`
	Origin                      string
	PendingDeletionWindowInDays *int32   `json:",omitempty"`
	SigningAlgorithms           []string `json:",omitempty"`
}

type multiRegion struct {
	MultiRegionKeyType string
	PrimaryKey         regionKey
	ReplicaKeys        []regionKey
}

type regionKey struct{ Arn, Region string }

// metadata describes a key, given what it shares and the world to find its
// relatives in.
func (e *Emulator) metadata(k *key, l *line, w *world) keyMetadata {
	m := keyMetadata{
		AWSAccountId: e.account, Arn: k.arn, CreationDate: at(k.created), CustomerMasterKeySpec: l.spec,
		Description: k.description, Enabled: k.state == enabled || k.state == updating,
		KeyId: k.ref.id, KeyManager: "CUSTOMER", KeySpec: l.spec,
		KeyState: k.state, KeyUsage: l.usage, MultiRegion: l.multiRegion, Origin: l.origin,
	}
	if cur := l.current(); cur != nil && k.state != creating {
		m.CurrentKeyMaterialId = cur.id
	}
	switch k.state {
	case pendingDeletion:
		m.DeletionDate = at(k.deletion)
	case pendingReplicaDeletion:
		m.PendingDeletionWindowInDays = &k.windowInDays
	}
	if spec, ok := findSpec(l.spec); ok {
		m.setAlgorithms(spec)
	}
	if l.multiRegion {
		m.MultiRegionConfiguration = relatives(k, l, w)
	}
	return m
}

func (m *keyMetadata) setAlgorithms(spec keySpec) {
	switch m.KeyUsage {
	case encryptDecrypt:
		m.EncryptionAlgorithms = spec.encryption
	case signVerify:
		m.SigningAlgorithms = spec.signing
	case verifyMac:
		m.MacAlgorithms = spec.mac
	case keyAgreement:
		m.KeyAgreementAlgorithms = spec.agreement
	case encapsulate:
		m.EncapsulationAlgorithms = spec.capsules
	}
}

func relatives(k *key, l *line, w *world) *multiRegion {
	m := &multiRegion{MultiRegionKeyType: "REPLICA", ReplicaKeys: []regionKey{}}
	if k.ref.region == l.primary {
		m.MultiRegionKeyType = "PRIMARY"
	}
	for _, other := range w.regionsOf(k.ref.id) {
		r := regionKey{Arn: other.arn, Region: other.ref.region}
		if other.ref.region == l.primary {
			m.PrimaryKey = r
		} else {
			m.ReplicaKeys = append(m.ReplicaKeys, r)
		}
	}
	return m
}

func describeKey(c *call) (any, error) {
	var in struct {
		KeyId       *string
		GrantTokens []string
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	ch.grantTokens(in.GrantTokens)
	if err := ch.err(); err != nil {
		return nil, err
	}
	k, err := c.anyKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "DescribeKey"); err != nil {
		return nil, err
	}
	return struct{ KeyMetadata keyMetadata }{c.metadata(k, c.line(k), c.store.latest.Load())}, nil
}
