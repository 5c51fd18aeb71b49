package wire

import "strconv"

// AppendCommand appends c as the frame that [Decode] reads, with the fields that its type
// has. The caller has checked them: Data is UTF-8, a JSON value, or any bytes, as Kind says.
func AppendCommand(dst []byte, c *Command) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, c.Type...)
	dst = append(dst, '"')
	dst = appendOptional(dst, `,"id":`, c.ID)
	dst = appendOptional(dst, `,"room":`, c.Room)
	switch c.Type {
	case CommandPublish:
		dst = appendOptional(dst, `,"key":`, c.Key)
		if c.To.Client != "" || c.To.User != "" {
			dst = append(dst, `,"to":{`...)
			if c.To.Client != "" {
				dst = append(dst, `"client":`...)
				dst = appendString(dst, c.To.Client)
			} else {
				dst = append(dst, `"user":`...)
				dst = appendString(dst, c.To.User)
			}
			dst = append(dst, '}')
		}
		dst = appendData(dst, c.Kind, c.Data)
	case CommandJoin:
		dst = appendOptional(dst, `,"since":`, c.Since)
		if c.History >= 0 {
			dst = appendInt(dst, `,"history":`, c.History)
		}
	case CommandTyping:
		dst = appendBool(dst, `,"on":`, c.On)
	case CommandHistory:
		if c.Before > 0 {
			dst = append(dst, `,"before":`...)
			dst = strconv.AppendUint(dst, c.Before, 10)
		}
		dst = appendInt(dst, `,"limit":`, c.Limit)
	}
	return append(dst, '}')
}
