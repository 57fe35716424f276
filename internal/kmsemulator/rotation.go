package kmsemulator

import "time"

const (
	maxOnDemand      = 25 // on-demand rotations in a key's life
	usualPeriod      = 365
	leastPeriod      = 90
	longestPeriod    = 2560
	rotationLimitMsg = "The on-demand rotations limit has been reached for the given keyId. " +
		"No more on-demand rotations can be performed for this key: %s"
)

// rotatable reports whether a key's material can be rotated at all. A key that is
// no symmetric one is refused without words, as KMS does.
func rotatable(k *key, l *line) error {
	switch {
	case l.spec != symmetric:
		return unsupported("")
	case l.origin != "AWS_KMS":
		return unsupported("%s origin is %s which is not valid for this operation.", k.arn, l.origin)
	case l.multiRegion && k.ref.region != l.primary:
		return unsupported("%s is not a multi-region primary key.", k.arn)
	}
	return nil
}

func enableKeyRotation(c *call) (any, error) {
	var in struct {
		KeyId                *string
		RotationPeriodInDays *int32
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	ch.number("rotationPeriodInDays", in.RotationPeriodInDays, leastPeriod, longestPeriod)
	if err := ch.err(); err != nil {
		return nil, err
	}
	k, err := c.plainKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "EnableKeyRotation"); err != nil {
		return nil, err
	}
	return nil, c.changeKey(k, func(w *world) error { return w.enableRotation(k.ref, in.RotationPeriodInDays, c.now) })
}

// enableRotation keeps the period and the date of a key that rotates already,
// unless another period is asked for.
func (w *world) enableRotation(ref keyRef, days *int32, now time.Time) error {
	if _, err := w.rotating(ref); err != nil {
		return err
	}
	l := w.editLine(ref.id)
	switch {
	case days != nil:
		l.periodInDays = *days
	case l.rotates:
		return nil
	default:
		l.periodInDays = usualPeriod
	}
	l.rotates, l.next = true, now.AddDate(0, 0, int(l.periodInDays))
	return nil
}

// rotating returns a key on which rotation can be changed now.
func (w *world) rotating(ref keyRef) (*key, error) {
	k := w.keys[ref]
	if err := rotatable(k, w.lines[ref.id]); err != nil {
		return nil, err
	}
	return k, usable(k)
}

func disableKeyRotation(c *call) (any, error) {
	k, err := c.ownKey()
	if err != nil {
		return nil, err
	}
	return nil, c.changeKey(k, func(w *world) error {
		if _, err := w.rotating(k.ref); err != nil {
			return err
		}
		l := w.editLine(k.ref.id)
		l.rotates, l.periodInDays, l.next = false, 0, time.Time{}
		return nil
	})
}

func rotateKeyOnDemand(c *call) (any, error) {
	k, err := c.ownKey()
	if err != nil {
		return nil, err
	}
	if err := c.changeKey(k, func(w *world) error { return w.rotate(k.ref, c.now) }); err != nil {
		return nil, err
	}
	return struct{ KeyId string }{k.arn}, nil
}

// rotate gives a key new material at once. (KMS takes some seconds; see
// Options.PropagationDelay.)
func (w *world) rotate(ref keyRef, now time.Time) error {
	if k := w.keys[ref]; k.state == pendingImport {
		return stateError(k) // such keys can be rotated, once they have material
	}
	k, err := w.rotating(ref)
	if err != nil {
		return err
	}
	if w.lines[ref.id].onDemand >= maxOnDemand {
		return refuse("LimitExceededException", rotationLimitMsg, k.arn)
	}
	l := w.editLine(ref.id)
	m := newMaterial(ref.id)
	w.addMaterial(l, m)
	l.onDemand++
	l.rotations = append(l.rotations, rotation{date: now, kind: "ON_DEMAND", materialID: m.id})
	return nil
}

func getKeyRotationStatus(c *call) (any, error) {
	k, err := c.ownKey()
	if err != nil {
		return nil, err
	}
	l := c.line(k)
	switch {
	case l.spec != symmetric:
		return nil, unsupported("")
	case l.origin != "AWS_KMS":
		return nil, unsupported("%s origin is %s which is not valid for this operation.", k.arn, l.origin)
	}
	out := struct {
		KeyId                string
		KeyRotationEnabled   bool
		NextRotationDate     *seconds `json:",omitempty"`
		RotationPeriodInDays int32    `json:",omitempty"`
	}{KeyId: k.arn}
	// A key that is pending deletion does not rotate, and says so; when the
	// deletion is cancelled its setting is back.
	if l.rotates && k.state != pendingDeletion && k.state != pendingReplicaDeletion {
		out.KeyRotationEnabled, out.NextRotationDate, out.RotationPeriodInDays = true, at(l.next), l.periodInDays
	}
	return out, nil
}

// A rotationEntry is one entry of ListKeyRotations.
type rotationEntry struct {
	KeyId            string
	KeyMaterialId    string
	KeyMaterialState string
	RotationDate     *seconds `json:",omitempty"`
	RotationType     string   `json:",omitempty"`

	order string // sorts as the rotations follow each other
}

func listKeyRotations(c *call) (any, error) {
	var in struct {
		KeyId              *string
		IncludeKeyMaterial *string
		Limit              *int32
		Marker             *string
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	ch.enum("includeKeyMaterial", in.IncludeKeyMaterial, "ALL_KEY_MATERIAL", "ROTATIONS_ONLY")
	ch.paging(in.Limit, in.Marker, 1000)
	if err := ch.err(); err != nil {
		return nil, err
	}
	k, err := c.plainKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "ListKeyRotations"); err != nil {
		return nil, err
	}
	l := c.line(k)
	if l.spec != symmetric {
		return nil, unsupported("")
	}
	all := rotationEntries(k, l, value(in.IncludeKeyMaterial, "ROTATIONS_ONLY") == "ALL_KEY_MATERIAL")
	part, next, err := page(all, in.Limit, in.Marker, 100, func(e rotationEntry) string { return e.order })
	if err != nil {
		return nil, err
	}
	return struct {
		NextMarker string `json:",omitempty"`
		Rotations  []rotationEntry
		Truncated  bool
	}{next, part, next != ""}, nil
}

// rotationEntries lists a key's rotations, oldest first, and before them its
// first material where all material is asked for.
func rotationEntries(k *key, l *line, all bool) []rotationEntry {
	dates := make(map[string]rotation)
	for _, r := range l.rotations {
		dates[r.materialID] = r
	}
	var out []rotationEntry
	for i, m := range l.materials {
		r, rotated := dates[m.id]
		if !rotated && !all {
			continue
		}
		e := rotationEntry{KeyId: k.arn, KeyMaterialId: m.id, KeyMaterialState: "NON_CURRENT", order: string([]byte{byte('0' + i/100%10), byte('0' + i/10%10), byte('0' + i%10)})}
		if m == l.current() {
			e.KeyMaterialState = "CURRENT"
		}
		if rotated {
			e.RotationDate, e.RotationType = at(r.date), r.kind
		}
		out = append(out, e)
	}
	return out
}
